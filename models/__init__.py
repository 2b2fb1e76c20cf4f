"""Fusion networks by name: `build_model("dc2fusion", embed_dim=96)`.

Every model is an `nn.Module` with `forward(mri, pet) -> fused`, all (B, 1, D, H, W) float in [0,
1].
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from models.baselines.dilran import DILRAN
from models.baselines.laplacian import Laplacian
from models.baselines.matr import MATR
from models.baselines.slicewise import Slicewise
from models.baselines.swinfuse import SwinFuse
from models.baselines.trivial import Maximum, Mix
from models.baselines.u2fusion import U2Fusion
from models.baselines.weights import load_weights
from models.dc2fusion import DC2Fusion


def _slicewise(
    method: Callable[..., nn.Module],
    weights: str | Path | None = None,
    plane: str = "axial",
    batch: int = 8,
    stretch: str = "none",
    **options,
) -> Slicewise:
    network = method(**options)
    if weights is not None:
        load_weights(network, weights)
    return Slicewise(network, plane, batch, stretch)


# The 2-D methods, each run slice by slice.
_SLICEWISE: dict[str, Callable[..., nn.Module]] = {
    "swinfuse": SwinFuse,
    "u2fusion": U2Fusion,
    "dilran": DILRAN,
    "matr": MATR,
}

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "dc2fusion": DC2Fusion,
    **{name: partial(_slicewise, method) for name, method in _SLICEWISE.items()},
    "laplacian": Laplacian,
    "copy-mri": lambda: Mix((1, 0)),
    "average": lambda: Mix((1, 1)),
    "mix": Mix,
    "maximum": Maximum,
}


def model_names() -> list[str]:
    """The names that `build_model` knows."""
    return list(_BUILDERS)


def slicewise_names() -> list[str]:
    """The names of the 2-D methods: those that take published `weights` and a `plane`."""
    return list(_SLICEWISE)


def build_model(name: str, **options) -> nn.Module:
    """Build a model.

    Args:
        name: one of `model_names()`.
        options: the model's own options, for example `embed_dim`, `variant`, `fusion` of
            `DC2Fusion`. The 2-D methods also take `weights` (a file, see
            `models.baselines.weights`) and `plane`, `batch` and `stretch` of `Slicewise`, whose
            `method` is the network itself.

    Raises:
        ValueError: for an unknown name, with the known ones; for weights that do not fit.
        OSError: for weights that are not there.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}, choose from {', '.join(_BUILDERS)}")
    return _BUILDERS[name](**options)
