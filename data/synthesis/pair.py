"""A synthetic pair: one anatomy, an MRI and a PET of it, and what goes wrong with either.

anatomy -> crop -> MRI, PET -> lesions -> point spread -> misalignment -> masks -> smoothing
-> background -> fields of view -> [0, 1]
"""

from collections.abc import Sequence

import numpy as np
import torch

from data.synthesis.anatomy import Anatomy
from data.synthesis.crop import Crop, draw_crop
from data.synthesis.fields import FWHM, blur, grid_points, moved, rotation, smooth_noise
from data.synthesis.mri import draw_mri
from data.synthesis.pet import draw_pet, seen_by_scanner

Pair = tuple[torch.Tensor, torch.Tensor]
BRIGHTEST = (
    0.999  # quantile of the crop that becomes 1, so that a hot voxel does not darken the rest
)


def draw_pair(
    anatomies: Sequence[Anatomy],
    size: int,
    key: Sequence[int],
    device: torch.device | str = "cpu",
) -> tuple[Pair, np.ndarray]:
    """MRI and PET of one crop, and its voxels' edges.

    Args:
        anatomies: one of them is drawn.
        size: voxels a side.
        key: whole numbers of at least 0 that decide everything, such as (seed, epoch, index).
        device: where it is computed; the draws are the same on each.

    Returns:
        ((MRI, PET), voxel_mm): two (size, size, size) float32 in [0, 1], and (3,) mm.
    """
    rng = np.random.default_rng(list(key))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    anatomy = anatomies[rng.integers(len(anatomies))]
    crop = draw_crop(anatomy, size, rng, generator, torch.device(device))
    mri, pet = draw_mri(crop, rng, generator), draw_pet(crop, rng, generator)
    mri, pet = _with_lesions(mri, pet, crop, rng, generator)
    pet = seen_by_scanner(pet, crop, rng, generator)
    pet = _misaligned(pet, crop, rng)
    mri, pet = _stripped(mri, pet, crop, rng)
    mri, pet = _smoothed(mri, pet, crop, rng)
    mri, pet = _greyed(mri, pet, crop, rng, generator)
    mri, pet = _cut_short(mri, pet, crop, rng)
    mri, pet = (_scaled(image, rng) for image in (mri, pet))
    return (mri, pet), crop.voxel_mm


def _with_lesions(
    mri: torch.Tensor,
    pet: torch.Tensor,
    crop: Crop,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Pair:
    """Regions of low uptake (p 0.4, PET only) and ragged lesions (p 0.5, in one or in both)."""
    if rng.random() < 0.4:
        for _ in range(rng.integers(1, 4)):
            region = _blob(crop, rng.uniform(8, 35), 0.15, rng, generator, pet)
            pet = pet * (1 - region * (1 - rng.uniform(0.5, 0.9)))
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            lesion = _blob(crop, rng.uniform(3, 25), 0.4, rng, generator, pet)
            where = rng.choice(["pet", "mri", "both"], p=[0.35, 0.35, 0.3])
            if where != "mri":
                factor = rng.uniform(0.1, 0.5) if rng.random() < 0.5 else rng.uniform(1.2, 2.5)
                pet = pet * (1 + lesion * (factor - 1))
            if where != "pet":
                mri = mri * (1 + lesion * (rng.uniform(0.2, 1.9) - 1))
    return mri, pet


def _blob(
    crop: Crop,
    radius_mm: float,
    raggedness: float,
    rng: np.random.Generator,
    generator: torch.Generator,
    like: torch.Tensor,
) -> torch.Tensor:
    """(D, H, W) in [0, 1]: a soft-edged ball somewhere in the crop, its border waved."""
    size = like.shape[0]
    middle = rng.uniform(-0.4, 0.4, 3) * size * crop.voxel_mm
    points = grid_points(size, crop.voxel_mm, like.device)
    middle = torch.tensor(middle, device=like.device, dtype=torch.float32)
    distance = (points - middle.view(3, 1, 1, 1)).square_().sum(0).sqrt_()
    spacing = max(radius_mm / crop.voxel_mm.mean() / 1.5, 1.0)
    wave = 1 + raggedness * smooth_noise(like.shape, spacing, generator, like).clamp(-2, 2)
    edge_mm = rng.uniform(1, 4)
    return torch.sigmoid((radius_mm * wave - distance) / edge_mm)


def _misaligned(pet: torch.Tensor, crop: Crop, rng: np.random.Generator) -> torch.Tensor:
    """What a registration leaves: nothing in half of the pairs, else about 1 mm and 1 degree."""
    if rng.random() < 0.5:
        return pet
    shift = rng.normal(0, 1, 3).clip(-3, 3) / crop.voxel_mm
    turn = rotation(np.deg2rad(rng.normal(0, 1, 3).clip(-3, 3)))
    return moved(pet, torch.from_numpy(shift), turn)


def _stripped(mri: torch.Tensor, pet: torch.Tensor, crop: Crop, rng: np.random.Generator) -> Pair:
    """Three of five heads are brains, in both modalities or in one; of the others half have no air.

    "No air" is a background of exactly 0, as masking a head leaves it.
    """
    if rng.random() < 0.6:
        mask = crop.near_brain(rng.uniform(-1, 4))
        which = rng.choice(["both", "mri", "pet"], p=[0.35, 0.35, 0.3])
    else:
        mask = crop.near_head()
        which = rng.choice(["both", "mri", "none"], p=[0.25, 0.25, 0.5])
    if which in ("both", "mri"):
        mri = mri * mask
    if which in ("both", "pet"):
        pet = pet * mask
    return mri, pet


def _smoothed(mri: torch.Tensor, pet: torch.Tensor, crop: Crop, rng: np.random.Generator) -> Pair:
    """What smoothing leaves.

    Half of the pairs are as smooth, and as free of noise, as the mean of many people; in another
    eighth the PET alone was smoothed, as for statistics over voxels. Smooth pairs are the harder
    ones: what is to be added is as wide as what is seen.
    """
    kind = rng.random()
    if kind >= 5 / 8:
        return mri, pet
    widths = rng.uniform(4, 16, 2)  # mm, full width at half maximum
    smooth = [
        blur(image, width / FWHM / crop.voxel_mm)
        for image, width in zip((mri, pet), widths, strict=True)
    ]
    return (smooth[0] if kind < 1 / 2 else mri), smooth[1]


def _cut_short(mri: torch.Tensor, pet: torch.Tensor, crop: Crop, rng: np.random.Generator) -> Pair:
    """A field of view that ends within the crop, in a quarter of the pairs.

    Three of five lack up to 40 mm on one side, in both images or in the PET; the others are slabs.
    """
    if rng.random() >= 0.25:
        return mri, pet
    axis, size = int(rng.integers(3)), mri.shape[0]
    if rng.random() < 0.4:
        kept = int(size * rng.uniform(0.3, 0.7))
        start = int(rng.integers(size - kept + 1))
        missing, images = [(0, start), (start + kept, size)], [mri.clone(), pet.clone()]
        cut = images
    else:
        length = int(min(rng.uniform(0, 40) / crop.voxel_mm[axis], size / 3))
        start = 0 if rng.random() < 0.5 else size - length
        missing, images = [(start, start + length)], [mri.clone(), pet.clone()]
        cut = images[rng.random() < 0.5 :]
    for image in cut:
        for first, last in missing:
            image.narrow(axis, first, last - first).zero_()
    return images[0], images[1]


def _greyed(
    mri: torch.Tensor,
    pet: torch.Tensor,
    crop: Crop,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Pair:
    """Group templates and unmasked reconstructions are grey where nothing is.

    Both images of two in five pairs, one of another fifth, from what one step of 8 bits shows to
    0.15 of the brightest voxel; a field of view ends in 0 even so.
    """
    kind = rng.random()
    levels = np.exp(rng.uniform(*np.log((0.004, 0.15)), 2))  # of the brightest voxel
    backgrounds = [_background(crop, rng, generator, mri) for _ in range(2)]
    if kind < 0.5:
        mri = mri + levels[0] * mri.max() * backgrounds[0]
    if kind < 0.4 or 0.5 <= kind < 0.6:
        pet = pet + levels[1] * pet.max() * backgrounds[1]
    return mri, pet


def _background(
    crop: Crop, rng: np.random.Generator, generator: torch.Generator, like: torch.Tensor
) -> torch.Tensor:
    """(D, H, W), about 1: constant in two of five, else uneven, and falling off at the border.

    A reconstruction leaves more here and less there; smoothing mixes what lies within its width of
    the border with nothing.
    """
    kind = rng.random()
    background = torch.ones_like(like)
    if kind < 0.4:
        return background
    spacing = rng.uniform(30, 100) / crop.voxel_mm.mean()
    field = smooth_noise(like.shape, spacing, generator, like)
    background = (1 + rng.uniform(0.1, 0.6) * field).clamp(min=0)
    if kind < 0.7:
        return background
    width = rng.uniform(4, 16) / FWHM / crop.voxel_mm
    for axis, (side, sigma) in enumerate(zip(like.shape, width, strict=True)):
        place = torch.arange(side, device=like.device) + 0.5
        depth = torch.minimum(place, side - place) / float(sigma)
        inside = torch.special.ndtr(depth)  # share of a Gaussian that lies in the volume
        background = background * inside.view([-1 if i == axis else 1 for i in range(3)])
    return background


def _scaled(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """To [0, 1] as preprocessing does, by what a head holds: a crop may miss its extremes.

    The darkest voxel of a head is 0 or near it, in whatever crop it lies.
    """
    some = image.flatten()[::3]
    brighter = round((1 - BRIGHTEST) * some.numel())
    high = float(some.topk(1 + brighter).values[-1])  # a quantile would sort all of them
    image = (image / max(high, 1e-6)).clamp(0, 1)
    # a window of a larger volume need not hold its brightest voxel
    return image * (rng.uniform(0.6, 1) if rng.random() < 0.4 else 1.0)
