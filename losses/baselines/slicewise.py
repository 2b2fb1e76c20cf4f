"""The 2-D methods' own training losses by name: `build_slice_objective("matr")`.

Each is `(method, *slices) -> (total, terms)`: it asks the network `method` for what it needs,
`method(mri, pet)` or `method.reconstruct(image)`, because auto-encoders are trained on single
slices and know nothing of fusing.
"""

from pathlib import Path

from torch import nn

from losses.baselines.dilran import DilranObjective
from losses.baselines.matr import MatrObjective
from losses.baselines.swinfuse import SwinFuseObjective
from losses.baselines.u2fusion import U2FusionObjective
from losses.baselines.vgg import load_vgg16

_WITHOUT_VGG = {"swinfuse": SwinFuseObjective, "matr": MatrObjective}
# The loss, and whether its VGG-16 has batch normalisation.
_WITH_VGG = {"u2fusion": (U2FusionObjective, False), "dilran": (DilranObjective, True)}


def build_slice_objective(name: str, vgg: str | Path | None = None) -> nn.Module:
    """The loss of the 2-D method called `name`.

    Args:
        name: "swinfuse", "u2fusion", "dilran" or "matr".
        vgg: file of VGG-16's weights, see `losses.baselines.vgg`, of the form without batch
            normalisation for U2Fusion and with it for DILRAN. Without a file U2Fusion gives both
            sources the same weight and DILRAN leaves its perceptual term out.

    Raises:
        ValueError: for an unknown name, a file that the method has no use for, or one that is no
            such state dict.
        OSError: the file cannot be read.
    """
    if name in _WITH_VGG:
        objective, batch_norm = _WITH_VGG[name]
        return objective(load_vgg16(vgg, batch_norm) if vgg else None)
    if name not in _WITHOUT_VGG:
        known = ", ".join([*_WITHOUT_VGG, *_WITH_VGG])
        raise ValueError(f"unknown 2-D method {name!r}, choose from {known}")
    if vgg:
        raise ValueError(f"{name} is trained without VGG-16")
    return _WITHOUT_VGG[name]()
