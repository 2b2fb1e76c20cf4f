"""The PET of a crop: uptake by tissue, regions of more and of less, point spread, noise.

Ranges: FDG relative to mean cortex in 537 controls, Hoffman and BrainWeb phantom practice for the
rest, NEMA measurements of scanners for the point spread.
"""

import numpy as np
import torch

from data.synthesis.crop import Crop
from data.synthesis.fields import FWHM, blur, noise, smooth_noise
from data.synthesis.tissues import CORTEX, NUMBERS, TISSUES

OTHER_TRACER = 0.25
STRIATUM = [NUMBERS[name] for name in ("caudate and accumbens", "putamen", "pallidum")]
GREY = [CORTEX, NUMBERS["cerebellar grey"], NUMBERS["hippocampus"], NUMBERS["amygdala"]]
WHITE = [NUMBERS["white matter"], NUMBERS["cerebellar white"], NUMBERS["brain stem"]]


def draw_pet(crop: Crop, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
    """The tracer's distribution in the crop, before lesions, point spread and noise.

    Returns:
        (D, H, W) float32, mean cortex about 1 for FDG.
    """
    pet = crop.paint(draw_uptake(rng))
    cortex = np.zeros(len(TISSUES))
    cortex[CORTEX] = 1
    spacing = rng.uniform(12, 30) / crop.voxel_mm.mean()
    field = smooth_noise(pet.shape, spacing, generator, pet)
    regional = rng.uniform(0.05, 0.12) * field.clamp(-2.5, 2.5)
    return pet * (1 + crop.paint(cortex) * regional)


def draw_uptake(rng: np.random.Generator) -> np.ndarray:
    """(tissues,) uptake relative to FDG's mean cortex."""
    low, high = np.array([tissue.uptake for tissue in TISSUES]).T
    uptake = rng.uniform(low, high)
    if rng.random() >= OTHER_TRACER:
        return uptake
    kind = rng.integers(4)
    if kind == 0:  # amyloid, negative: white matter above grey
        uptake[WHITE] = rng.uniform(0.9, 1.4, len(WHITE))
        uptake[GREY] = rng.uniform(0.6, 0.8, len(GREY))
    elif kind == 1:  # amyloid, positive: cortex reaches white matter and passes it
        uptake[WHITE] = rng.uniform(0.8, 1.2, len(WHITE))
        uptake[GREY] = rng.uniform(1.2, 2.0, len(GREY))
    elif kind == 2:  # dopamine: the striatum alone
        uptake *= rng.uniform(0.5, 1.0)
        uptake[STRIATUM] = rng.uniform(3, 8)
    else:  # grey and white exchanged, for what none of these is like
        uptake[GREY], uptake[WHITE] = uptake[WHITE[0]], uptake[GREY[0]]
    return uptake


def draw_fwhm(rng: np.random.Generator) -> np.ndarray:
    """(3,) full width at half maximum of the point spread in mm, the last one axial."""
    low, high = ((2.5, 4), (4, 7), (7, 10))[rng.choice(3, p=[0.15, 0.55, 0.3])]
    return rng.uniform(low, high) * np.array([1, 1, rng.uniform(0.9, 1.3)])


def seen_by_scanner(
    pet: torch.Tensor, crop: Crop, rng: np.random.Generator, generator: torch.Generator
) -> torch.Tensor:
    """The tracer's distribution after point spread, counting noise and reconstruction."""
    pet = blur(pet, draw_fwhm(rng) / FWHM / crop.voxel_mm)
    level = 0.15 * rng.uniform() ** 1.5  # of cortex; most reconstructions are smooth
    # counts: variance grows with the mean; filtered backprojection spreads it everywhere
    filtered_backprojection = rng.random() < 0.1
    grain = blur(noise(pet.shape, generator, pet), rng.uniform(3, 6) / FWHM / crop.voxel_mm)
    grain = grain / grain.std().clamp(min=1e-6)
    if filtered_backprojection:
        return pet + level * grain
    return (pet + level * pet.clamp(min=0).sqrt() * grain).clamp(min=0)
