"""A crop of an anatomy: where it lies, how it is turned and bent, which tissues its voxels hold."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from data.synthesis.anatomy import Anatomy
from data.synthesis.fields import blur, grid_points, rotation, smooth_noise
from data.synthesis.tissues import TISSUES, brain

FINE = 2  # looked-up tissues a voxel along each axis, which gives borders partial volume
FINE_MM = (0.8, 2.5)
COARSE_MM = (2.5, 4.0)  # the published preprocessing shows a whole head in a cube of 64
HEAD_MM = (160.0, 256.0)  # sides of a cube that shows one; larger ones would show air
COARSE_SHARE = 0.4
WHOLE_MM = 200.0  # crops of this size show a whole head


@dataclass(frozen=True)
class Crop:
    """The tissues in a cube.

    Attributes:
        tissues: (8, D, H, W) uint8, the tissue numbers at eight places within each voxel.
        voxel_mm: (3,) edges of a voxel.
    """

    tissues: torch.Tensor
    voxel_mm: np.ndarray

    def paint(self, table: np.ndarray) -> torch.Tensor:
        """(D, H, W) float32: each voxel's mean of a value by tissue, (tissues,)."""
        values = torch.from_numpy(np.asarray(table, np.float32)).to(self.tissues.device)
        total = values.new_zeros(self.tissues[0].numel())
        for place in self.tissues:  # one at a time stays in the cache; an index would be slower
            total += values.index_select(0, place.int().flatten())
        return (total / len(self.tissues)).view(self.tissues.shape[1:])

    def near_brain(self, margin_mm: float) -> torch.Tensor:
        """(D, H, W) float32 in [0, 1]: the brain and what it encloses, grown by `margin_mm`.

        Grown by 6 mm and shrunk again, which closes sulci and cisterns as skull stripping does. A
        blurred half space has the value Phi(-d / width) at a distance d outside its border.
        """
        width = 4.0  # mm of the blur that turns distances into thresholds
        grown = 6.0
        wide = blur(self.paint(brain()), width / self.voxel_mm) > _normal_cdf(-grown / width)
        again = blur(wide.float(), width / self.voxel_mm)
        return ((again - _normal_cdf((grown - margin_mm) / width)) * 20).add(0.5).clamp(0, 1)

    def near_head(self) -> torch.Tensor:
        """(D, H, W) float32, 1 in the head and within some mm of it, else 0."""
        head = np.ones(len(TISSUES))
        head[0] = 0
        return (blur(self.paint(head), 2.0 / self.voxel_mm) > 0.02).float()


def _normal_cdf(value: float) -> float:
    return 0.5 * (1 + math.erf(value / 2**0.5))


def draw_crop(
    anatomy: Anatomy,
    size: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    device: torch.device,
) -> Crop:
    """A cube of `size` voxels a side, somewhere in a head that is scaled, turned and bent.

    Flip 1/2; scale 0.85 to 1.15 and rotation within 15 degrees along each axis; a smooth field of
    displacements of up to 4 mm standard deviation. Voxels are as `_draw_voxel_mm` says.
    """
    voxel_mm = _draw_voxel_mm(size, rng)
    scale = rng.uniform(0.85, 1.15, 3) * np.array([rng.choice([-1, 1]), 1, 1])
    turn = rotation(np.deg2rad(rng.uniform(-15, 15, 3)))
    centre = _draw_centre(anatomy, voxel_mm * size, rng)
    bend = _bend(size, voxel_mm, rng, generator, device)
    return _cut(anatomy, voxel_mm, scale, turn, centre, bend)


def draw_aligned(
    anatomy: Anatomy,
    size: int,
    voxel_mm: float,
    rng: np.random.Generator,
    generator: torch.Generator,
    device: torch.device,
) -> Crop:
    """A cube about the brain of a head that lies as an affine registration leaves it, and is bent.

    Scale 0.95 to 1.05 and rotation within 4 degrees along each axis, the middle within 4 mm; a
    smooth field of displacements of up to 4 mm standard deviation.
    """
    sides = np.full(3, voxel_mm)
    scale = rng.uniform(0.95, 1.05, 3)
    turn = rotation(np.deg2rad(rng.uniform(-4, 4, 3)))
    centre = np.array(anatomy.centre) + rng.uniform(-4, 4, 3) / anatomy.voxel_mm
    return _cut(anatomy, sides, scale, turn, centre, _bend(size, sides, rng, generator, device))


def _cut(
    anatomy: Anatomy,
    voxel_mm: np.ndarray,
    scale: np.ndarray,
    turn: torch.Tensor,
    centre: np.ndarray,
    bend: torch.Tensor,
) -> Crop:
    """The tissues of a cube of an anatomy.

    Args:
        voxel_mm: (3,) edges of the cube's voxels.
        scale, turn: (3,) and (3, 3), of the cube against the head.
        centre: (3,) voxel of the anatomy that the cube's middle lies on.
        bend: (3, D, H, W) mm that the cube's points are moved by.
    """
    device, size = bend.device, bend.shape[-1]
    points = grid_points(size, voxel_mm, device) + bend  # 3, D, H, W in mm
    to_voxels = torch.diag(torch.from_numpy(scale / np.array(anatomy.voxel_mm))) @ turn
    to_voxels = to_voxels.to(device, torch.float32)
    middle = torch.tensor(centre, device=device, dtype=torch.float32)
    points = torch.addmm(middle[:, None], to_voxels, points.flatten(1)).view(points.shape)
    inner = to_voxels @ grid_points(FINE, voxel_mm / FINE, device).flatten(1)
    return Crop(_looked_up(anatomy.tissues.to(device), points, inner.T), voxel_mm)


def _draw_voxel_mm(size: int, rng: np.random.Generator) -> np.ndarray:
    """(3,) edges of a voxel.

    Two of five cubes show a whole head, by voxels of 2.5 to 4 mm or, in larger ones, smaller; the
    others have voxels of 0.8 to 2.5 mm, half of them below 1.4 as most MRI are, one axis up to
    twice that in a third of them. No cube is much larger than a head.
    """
    if rng.random() < COARSE_SHARE:
        sides = (min(mm, head / size) for mm, head in zip(COARSE_MM, HEAD_MM, strict=True))
        return np.full(3, rng.uniform(*sides))
    finest, largest = FINE_MM[0], max(FINE_MM[0], min(FINE_MM[1], HEAD_MM[1] / size))
    voxel_mm = np.full(3, np.exp(rng.uniform(*np.log((finest, largest)))))
    if rng.random() < 1 / 3:
        voxel_mm[rng.integers(3)] *= rng.uniform(1, 2)
    return voxel_mm


def _draw_centre(anatomy: Anatomy, sides_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3,) voxel of the anatomy that the crop's middle lies on."""
    if sides_mm.min() >= WHOLE_MM:
        return np.array(anatomy.centre) + rng.uniform(-10, 10, 3) / anatomy.voxel_mm
    # uniformly over the brain's box, so that borders and middle are seen alike
    reach = np.maximum(np.array([60.0, 75.0, 55.0]) - sides_mm / 4, 0)
    return np.array(anatomy.centre) + rng.uniform(-reach, reach) / anatomy.voxel_mm


def _bend(
    size: int,
    voxel_mm: np.ndarray,
    rng: np.random.Generator,
    generator: torch.Generator,
    device: torch.device,
) -> torch.Tensor:
    """(3, D, H, W) displacements in mm."""
    like = torch.empty(0, device=device)
    strength = rng.uniform(0, 4)
    spacing = rng.uniform(20, 40) / voxel_mm.mean()
    axes = [smooth_noise((size,) * 3, spacing, generator, like) for _ in range(3)]
    return strength * torch.stack(axes)


def _looked_up(tissues: torch.Tensor, points: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Tissue numbers around points, background (0) outside the anatomy.

    Args:
        tissues: (X, Y, Z) uint8.
        points: (3, D, H, W) in voxels of `tissues`.
        inner: (8, 3) displacements from a point to the places that are looked up.

    Returns:
        (8, D, H, W) uint8.
    """
    padded = F.pad(tissues, (1,) * 6)  # with background, on which all places outside fall
    found = tissues.new_empty(len(inner), points[0].numel())
    for displacement, out in zip(inner + 1, found, strict=True):  # 1: the padding
        places = torch.zeros(points.shape[1:], dtype=torch.int32, device=points.device)
        for along, shift, side in zip(points, displacement, padded.shape, strict=True):
            places.mul_(side).add_((along + shift).round_().clamp_(0, side - 1).int())
        torch.index_select(padded.flatten(), 0, places.flatten(), out=out)
    return found.view(len(inner), *points.shape[1:])
