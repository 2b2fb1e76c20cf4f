"""Learned deformable registration: networks that say where each voxel of one head lies in another.

A displacement `u` is (B, 3, D, H, W) in voxels, channel c along axis c, on the fixed image's grid:
`warped(p) = moving(p + u(p))`.
"""

from collections.abc import Sequence

from models.registration.transmorph import NETWORKS, Backbone, TransMorph, TransMorphDiff, window_of

_BUILDERS = {"transmorph": TransMorph, "transmorph-diff": TransMorphDiff}


def build_registration(
    name: str,
    size: Sequence[int],
    network: str = "standard",
    embed_dim: int | None = None,
    depths: Sequence[int] | None = None,
    variant: str = "paper",
    symmetric: bool = False,
) -> Backbone:
    """A registration network, `(moving, fixed) -> (warped, displacement)`.

    Args:
        name: "transmorph" or "transmorph-diff".
        size: (D, H, W) of the volumes, which decides the attention windows.
        network: a name in `models.registration.transmorph.NETWORKS`.
        embed_dim, depths: in place of the network's.
        variant: "paper" or "released".
        symmetric: of transmorph-diff alone, see there.

    Raises:
        ValueError: an unknown name, a symmetric transmorph, depths that are not four, or a width
            that the heads do not divide.
    """
    for given, known in ((name, _BUILDERS), (network, NETWORKS)):
        if given not in known:
            raise ValueError(f"unknown model {given!r}, choose from {', '.join(known)}")
    options = dict(NETWORKS[network])
    options["embed_dim"] = embed_dim or options["embed_dim"]
    options["depths"] = tuple(depths or options["depths"])
    for level, heads in enumerate(options["heads"]):
        if options["embed_dim"] * 2**level % heads:
            raise ValueError(f"{heads} heads do not divide a width of {options['embed_dim']}")
    if symmetric:
        if name != "transmorph-diff":
            raise ValueError(f"{name} has no symmetric form, transmorph-diff has")
        options["symmetric"] = True
    return _BUILDERS[name](**options, window=window_of(size), variant=variant)
