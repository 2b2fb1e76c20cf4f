"""Lesion transfer: how much of a lesion that only one source shows arrives in the fused volume.

Similarity scores reward what both sources share; a reader looks for what only one of them shows. So
smooth lesions are put into one source at a time and fused with the untouched other one:

    T_s = <F(lesion in s) - F(without), delta_s> / <delta_s, delta_s>

with delta_s what the lesion changed in source s. 1: it arrives in full; 0: not at all; below 0:
inverted. A copy of the MRI has T_mri = 1 and T_pet = 0, the average 0.5 and 0.5, a mix w and 1 - w.

T is the strength of the lesion's own shape in the fused volume's change. It does not see what else
changed elsewhere, nor whether a reader would find the lesion.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Fuse = Callable[[Tensor, Tensor], Tensor]

TISSUE = 0.15  # lesions are centred where both sources are above it
REACH = 5  # radii; beyond it a blob is below 4e-6 and counts as 0


@dataclass(frozen=True)
class Lesion:
    """One kind of lesion.

    Attributes:
        source: "mri" or "pet", the one that shows it.
        radius_mm: standard deviation of the Gaussian blob.
        amplitude: relative change of the intensity at its centre; negative is darker.
    """

    source: str
    radius_mm: float
    amplitude: float

    @property
    def name(self) -> str:
        """Such as "pet r10 -0.35"."""
        return f"{self.source} r{self.radius_mm:g} {self.amplitude:+g}"


STANDARD = (Lesion("mri", 5, -0.35), Lesion("pet", 10, -0.35))
_OTHERS = (
    Lesion(source, radius, amplitude)
    for source in ("mri", "pet")
    for radius in (4, 5, 10)
    for amplitude in (-0.35, 0.35)
)
FULL = tuple(dict.fromkeys([*STANDARD, *_OTHERS]))


@dataclass(frozen=True)
class Case:
    """A pair with lesions in one of its sources.

    Attributes:
        lesion: the kind.
        draw: number of the draw of centres.
        mri, pet: (1, 1, D, H, W) in [0, 1]; one of them is the untouched source.
        delta: what changed in the other one, same shape.
    """

    lesion: Lesion
    draw: int
    mri: Tensor
    pet: Tensor
    delta: Tensor


@dataclass(frozen=True)
class Transfer:
    """T of every kind of lesion and draw.

    Attributes:
        values: for each kind, (draws,) float64.
    """

    values: dict[Lesion, np.ndarray]

    def of(self, source: str) -> tuple[float, float]:
        """Mean and population standard deviation over all draws of the lesions in one source."""
        kinds = [values for lesion, values in self.values.items() if lesion.source == source]
        if not kinds:
            return float("nan"), float("nan")
        together = np.concatenate(kinds)
        return float(together.mean()), float(together.std())

    def columns(self) -> dict[str, float]:
        """`t_mri`, `t_pet` and `t_min`, the smaller of these means, each with its `_std`."""
        mri, pet = self.of("mri"), self.of("pet")
        smaller = min(mri, pet)
        parts = {"t_mri": mri, "t_pet": pet, "t_min": smaller}
        means = {name: mean for name, (mean, _) in parts.items()}
        return means | {f"{name}_std": spread for name, (_, spread) in parts.items()}


@torch.no_grad()
def lesion_transfer(
    fuse: Fuse,
    mri: Tensor,
    pet: Tensor,
    voxel_mm: Sequence[float] = (1.0, 1.0, 1.0),
    kinds: Sequence[Lesion] = STANDARD,
    count: int = 5,
    draws: int = 3,
    seed: int = 0,
    batch: int = 1,
) -> Transfer:
    """Measure the transfer of lesions through a fusion method.

    Args:
        fuse: (mri, pet) -> fused, all (B, 1, D, H, W) on the sources' intensity scale; run
            1 + draws x kinds times, or in batches. It must give the same for the same input.
        mri: (1, 1, D, H, W) in [0, 1], as the method sees it.
        pet: same shape, in [0, 1].
        voxel_mm: voxel sides along D, H, W.
        kinds: of lesions.
        count: lesions in each volume, the strongest counts where they overlap.
        draws: sets of centres for each kind.
        seed: of the centres; the same centres for every method and kind.
        batch: volumes in one call of `fuse`; more than 1 only for methods whose result does not
            depend on the rest of the batch.

    Returns:
        T of each kind and draw.

    Raises:
        ValueError: another shape than (1, 1, D, H, W), fewer than `count` voxels of tissue.
    """
    without = fuse(mri, pet).double()
    values: dict[Lesion, list[float]] = {lesion: [] for lesion in kinds}
    for cases in _batches(lesioned_pairs(mri, pet, voxel_mm, kinds, count, draws, seed), batch):
        fused = fuse(torch.cat([c.mri for c in cases]), torch.cat([c.pet for c in cases]))
        for case, with_lesion in zip(cases, fused.split(1), strict=True):
            values[case.lesion].append(transfer(with_lesion, without, case.delta))
    return Transfer({lesion: np.array(each) for lesion, each in values.items()})


def transfer(with_lesion: Tensor, without: Tensor, delta: Tensor) -> float:
    """<F(with) - F(without), delta> / <delta, delta> of one shape; NaN where delta is 0."""
    change, delta = with_lesion.double() - without.double(), delta.double()
    return float((change * delta).sum() / delta.square().sum())


def lesioned_pairs(
    mri: Tensor,
    pet: Tensor,
    voxel_mm: Sequence[float] = (1.0, 1.0, 1.0),
    kinds: Sequence[Lesion] = STANDARD,
    count: int = 5,
    draws: int = 3,
    seed: int = 0,
) -> Iterator[Case]:
    """The pairs that `lesion_transfer` fuses, one at a time; arguments as there.

    A lesion multiplies its source by 1 + amplitude * b, clipped to [0, 1], with b the maximum over
    the centres c of exp(-|x - c|^2 / 2 r^2).
    """
    if mri.shape != pet.shape or mri.ndim != 5 or len(mri) != 1 or mri.shape[1] != 1:
        shapes = f"{tuple(mri.shape)} and {tuple(pet.shape)}"
        raise ValueError(f"MRI and PET must both be (1, 1, D, H, W), received {shapes}")
    tissue = ((mri[0, 0] > TISSUE) & (pet[0, 0] > TISSUE)).nonzero().cpu().numpy()
    if len(tissue) < count:
        raise ValueError(
            f"{len(tissue)} voxels where both sources exceed {TISSUE}: no room for {count} lesions"
        )
    for draw in range(draws):
        chosen = np.random.default_rng([seed, draw]).choice(len(tissue), count, replace=False)
        for lesion in kinds:
            blobs = gaussian_blobs(mri.shape[2:], tissue[chosen], lesion.radius_mm, voxel_mm)
            source = mri if lesion.source == "mri" else pet
            factor = 1 + lesion.amplitude * torch.from_numpy(blobs).to(source)
            changed = (source * factor).clamp(0, 1)
            pair = (changed, pet) if lesion.source == "mri" else (mri, changed)
            yield Case(lesion, draw, *pair, delta=changed - source)


def gaussian_blobs(
    shape: Sequence[int], centres: np.ndarray, radius_mm: float, voxel_mm: Sequence[float]
) -> np.ndarray:
    """The maximum over centres c of exp(-|x - c|^2 / 2 r^2), float64 of `shape`, in [0, 1].

    Args:
        centres: (n, 3) voxel indices.
        radius_mm: r.
        voxel_mm: voxel sides along the three axes.
    """
    blobs = np.zeros(shape)
    for centre in centres:
        box, factors = [], []
        for middle, side_mm, length in zip(centre, voxel_mm, shape, strict=True):
            reach = int(np.ceil(REACH * radius_mm / side_mm))
            first, last = max(middle - reach, 0), min(middle + reach + 1, length)
            distance_mm = (np.arange(first, last) - middle) * side_mm
            box.append(slice(first, last))
            factors.append(np.exp(-0.5 * (distance_mm / radius_mm) ** 2))
        blob = factors[0][:, None, None] * factors[1][:, None] * factors[2]
        blobs[tuple(box)] = np.maximum(blobs[tuple(box)], blob)
    return blobs


def _batches(cases: Iterator[Case], size: int) -> Iterator[list[Case]]:
    """Lists of `size` cases, the last one shorter."""
    together = []
    for case in cases:
        together.append(case)
        if len(together) == size:
            yield together
            together = []
    if together:
        yield together
