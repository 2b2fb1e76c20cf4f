"""The published preprocessing and augmentation, and the way back to the MRI's own grid.

    read volumes -> crop to the MRI's foreground -> zero-pad -> resize -> [augment] -> [0, 1]

The first three steps are the same for a subject every time (`deterministic`), are cached in
training and are undone at inference (`to_native`). Augmentation (`augmentation`) is drawn anew in
every epoch. All are MONAI dictionary transforms on the keys "mri" and "pet", tensors (1, X, Y, Z)
in RAS+ order.
"""

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    MapTransform,
    RandAdjustContrastd,
    RandomizableTransform,
    RandRotated,
    ScaleIntensityd,
    allow_missing_keys_mode,
)
from monai.utils import convert_to_tensor

from data.foreground import foreground
from data.settings import Preprocessing, Recipe
from data.volume import Volume

KEYS = ("mri", "pet")
FIELD_OF_VIEW = 224  # mm, or voxels in the released recipe; the published data are 1 mm
NOISE_STD = 0.1  # upper end of the drawn standard deviation, in the units of the MRI's file
GAMMA = (0.1, 2.0)

Item = dict[str, torch.Tensor]


def to_item(mri: Volume, pet: Volume) -> Item:
    """A pair on one grid as MONAI tensors (1, X, Y, Z) that know their affine."""
    item = {}
    for key, volume in zip(KEYS, (mri, pet), strict=True):
        array = torch.from_numpy(volume.array)[None]  # 1, X, Y, Z
        item[key] = MetaTensor(array, affine=torch.from_numpy(volume.affine))
    return item


def deterministic(preprocessing: Preprocessing, voxel_mm: tuple[float, float, float]) -> Compose:
    """Crop both to the MRI's foreground, zero-pad symmetrically, resize to size^3 by area.

    Args:
        preprocessing: the size, and a recipe that says whether the 224 of the field of view are mm
            or voxels.
        voxel_mm: voxel sides of the subject.
    """
    sides = voxel_mm if preprocessing.form.pad_in_mm else (1.0, 1.0, 1.0)
    # 1e-3: sides of 0.9999999 mm from a rotated affine must not ask for one voxel more.
    box = [int(np.ceil(FIELD_OF_VIEW / side - 1e-3)) for side in sides]

    def inside(mri: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(foreground(mri[0].numpy(), preprocessing.form))[None]

    return Compose(
        [
            CropForegroundd(KEYS, source_key="mri", select_fn=inside, allow_smaller=True),
            ToCube(KEYS, box, preprocessing.size),
        ]
    )


class ToCube(MapTransform):
    """Zero-pad symmetrically to a box, which may be small, and resize to a cube by area; no more.

    As MONAI's `SpatialPadd` and `Resized(mode="area")` one after the other, but the padded volume
    is never made: of voxels of 0.1 mm it would take 45 GB. Each axis is one product with a matrix.

    Args:
        keys: of the volumes, (1, X, Y, Z).
        box: voxels a side to pad to.
        size: voxels a side of the cube.
    """

    def __init__(self, keys: Sequence[str], box: Sequence[int], size: int) -> None:
        super().__init__(keys)
        self.box, self.size = tuple(box), size

    def __call__(self, item: Item) -> Item:
        """The cubes, with the affine of their grid and, as `meta["box"]`, the shape of before."""
        item = dict(item)
        for key in self.keys:
            volume = item[key]
            axes = self._axes(volume.shape[1:])
            means = [area_weights(*axis, self.size) for axis in axes]
            cube = MetaTensor(_along_axes(volume.as_tensor(), means), meta=volume.meta)
            cube.affine = volume.affine @ _affine_of(axes, self.size)
            cube.applied_operations = volume.applied_operations
            cube.meta["box"] = tuple(volume.shape[1:])
            item[key] = cube
        return item

    def back(self, cube: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Values on the cube's grid, interpolated at the voxels that it came from.

        Args:
            cube: (1, size, size, size).
            shape: X, Y, Z of the volume.

        Returns:
            (1, X, Y, Z), trilinear.
        """
        lines = [linear_weights(*axis, self.size) for axis in self._axes(shape)]
        return _along_axes(cube, lines)

    def _axes(self, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """Of each axis: voxels, zeros before them, and voxels of the padded box."""
        axes = []
        for side, wanted in zip(shape, self.box, strict=True):
            padded = max(side, wanted)
            axes.append((side, (padded - side) // 2, padded))
        return axes


def area_weights(side: int, before: int, padded: int, size: int) -> torch.Tensor:
    """(size, side) float64: the mean over the voxels that each of `size` equal parts touches."""
    start = torch.arange(size) * padded // size
    stop = -(-(torch.arange(size) + 1) * padded // size)
    voxel = torch.arange(before, before + side)
    touched = (voxel >= start[:, None]) & (voxel < stop[:, None])
    return touched.double() / (stop - start)[:, None]


def linear_weights(side: int, before: int, padded: int, size: int) -> torch.Tensor:
    """(side, size) float64: linear interpolation between the centres of `size` equal parts."""
    voxel = torch.arange(before, before + side, dtype=torch.float64)
    place = ((voxel + 0.5) * size / padded - 0.5).clamp(0, size - 1)  # beyond: the nearest
    distance = (place[:, None] - torch.arange(size)).abs()
    return (1 - distance).clamp(min=0)


def _along_axes(volume: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """A (1, X, Y, Z) volume multiplied by a matrix along each axis; summed in float64."""
    values = volume[0].double()
    for axis, matrix in enumerate(weights):
        values = torch.tensordot(matrix, values, dims=([1], [axis])).movedim(0, axis)
    return values[None].to(torch.float32).contiguous()


def _affine_of(axes: Sequence[tuple[int, int, int]], size: int) -> torch.Tensor:
    """(4, 4) float64: index on the cube's grid -> index of the volume."""
    affine = torch.eye(4, dtype=torch.float64)
    for axis, (_, before, padded) in enumerate(axes):
        step = padded / size
        affine[axis, axis] = step
        affine[axis, 3] = (step - 1) / 2 - before
    return affine


class RandNoise(RandomizableTransform):
    """Gaussian noise on the MRI, like MONAI's `RandGaussianNoised`.

    It is drawn where the image is, which may be a GPU.

    Args:
        mean: of the noise.
        std: upper end of the drawn standard deviation.
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__(prob=0.5)
        self.mean, self.std = mean, std

    def __call__(self, item: Item) -> Item:
        """Add the noise to item["mri"] with probability 1/2."""
        self.randomize(None)
        if not self._do_transform:
            return item
        mri = item["mri"]
        std, seed = self.R.uniform(0, self.std), int(self.R.randint(2**31))
        generator = torch.Generator(mri.device).manual_seed(seed)
        noise = torch.randn(mri.shape, generator=generator, device=mri.device)
        return item | {"mri": mri + std * noise + self.mean}


def augmentation(recipe: Recipe) -> Compose:
    """Three rotations of both, p 0.1 each; gamma contrast and noise of the MRI, p 0.5 each."""
    return Compose(
        [
            RandRotated(KEYS, prob=0.1, range_x=recipe.rotation),
            RandRotated(KEYS, prob=0.1, range_y=recipe.rotation),
            RandRotated(KEYS, prob=0.1, range_z=recipe.rotation),
            RandAdjustContrastd("mri", prob=0.5, gamma=GAMMA),
            RandNoise(recipe.noise_mean, NOISE_STD),
        ]
    )


def rescale() -> ScaleIntensityd:
    """Each volume's smallest value to 0 and its largest to 1."""
    return ScaleIntensityd(KEYS, minv=0.0, maxv=1.0)


def to_native(fused: torch.Tensor, prepared: Item, steps: Compose) -> np.ndarray:
    """Take a fused volume back through the inverse of the deterministic transforms.

    Args:
        fused: (1, size, size, size), on the grid of `prepared`.
        prepared: what `steps` made of the pair, with MONAI's record of each step.
        steps: the transforms of `deterministic`.

    Returns:
        (X, Y, Z) float32 on the MRI's own grid, trilinear, 0 outside the box that was cropped.
    """
    crop, cube = steps.transforms
    mri = prepared["mri"]
    values = convert_to_tensor(fused.detach().cpu(), dtype=torch.float32, track_meta=False)
    box = cube.back(values, mri.meta["box"])
    image = MetaTensor(box, affine=mri.affine, applied_operations=mri.applied_operations)
    with allow_missing_keys_mode(crop):
        native = crop.inverse({"mri": image})["mri"]
    return np.ascontiguousarray(native[0].numpy(), dtype=np.float32)
