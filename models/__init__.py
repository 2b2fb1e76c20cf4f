"""Fusion networks by name: `build_model("dc2fusion", embed_dim=96)`.

Every model is an `nn.Module` with `forward(mri, pet) -> fused`, all (B, 1, D, H, W) float in [0, 1].
"""

from collections.abc import Callable

from torch import nn

from models.baselines.trivial import Maximum, Mix
from models.dc2fusion import DC2Fusion

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "dc2fusion": DC2Fusion,
    "copy-mri": lambda: Mix((1, 0)),
    "average": lambda: Mix((1, 1)),
    "mix": Mix,
    "maximum": Maximum,
}


def model_names() -> list[str]:
    """The names that `build_model` knows."""
    return list(_BUILDERS)


def build_model(name: str, **options) -> nn.Module:
    """Build a model.

    Args:
        name: one of `model_names()`.
        options: the model's own options, for example `embed_dim`, `variant`, `fusion` of `DC2Fusion`.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}, choose from {', '.join(_BUILDERS)}")
    return _BUILDERS[name](**options)
