"""What decides how files become tensors: recipe, size, cache and slices.

Plain values without torch, so that a configuration can hold them and `--help` stays quick.
"""

from dataclasses import dataclass
from pathlib import Path

CACHES = ("disk", "memory", "none")


@dataclass(frozen=True)
class Recipe:
    """Where the paper's preprocessing and the released one differ.

    Attributes:
        pad_in_mm: the field of view of 224 is in mm, so that heads have one scale whatever their
            voxel size. Otherwise in voxels: the same on 1 mm data.
        rotation: range in radians of each of the three random rotations. The released code gives
            its bound in a form that MONAI takes for a range from +0.2 to +0.2.
        noise_mean: [R7] mean of the Gaussian noise added to the MRI; 0.5 shifts the whole image.
        robust: whether the foreground is a head and the brightest voxels no outliers, see
            `data.foreground`. Otherwise, as released, it is mri > 0 and the largest value is white.
    """

    pad_in_mm: bool
    rotation: tuple[float, float]
    noise_mean: float
    robust: bool


RECIPES = {
    "paper": Recipe(pad_in_mm=True, rotation=(-0.2, 0.2), noise_mean=0.0, robust=True),
    "released": Recipe(pad_in_mm=False, rotation=(0.2, 0.2), noise_mean=0.5, robust=False),
}


@dataclass(frozen=True)
class Preprocessing:
    """How a pair is brought to the network.

    Attributes:
        recipe: a name in `RECIPES`.
        size: voxels a side that the network sees.
    """

    recipe: str = "paper"
    size: int = 128

    @property
    def form(self) -> Recipe:
        """What the recipe's name stands for."""
        return RECIPES[self.recipe]


@dataclass(frozen=True)
class Cache:
    """Where the deterministic part of the preprocessing is kept.

    Attributes:
        kind: "disk", "memory" or "none".
        folder: where "disk" keeps its files, one .npy of 8 size^3 bytes for each pair.

    Raises:
        ValueError: for another kind.
    """

    kind: str = "none"
    folder: Path = Path("cache")

    def __post_init__(self) -> None:
        if self.kind not in CACHES:
            raise ValueError(f"unknown cache {self.kind!r}, choose from {', '.join(CACHES)}")


NO_CACHE = Cache("none")


@dataclass(frozen=True)
class Slicing:
    """What a 2-D method is trained on.

    Attributes:
        plane: "axial", "coronal" or "sagittal".
        patch: side of the random squares that are cut from the slices; None for whole slices.
        pooled: MRI and PET are single images, twice as many items.
    """

    plane: str = "axial"
    patch: int | None = None
    pooled: bool = False
