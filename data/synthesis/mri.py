"""The MRI of a crop: contrast by tissue, texture, bias field, resolution, noise.

What is drawn and how often stands in the functions; the ranges are those of SynthSeg (Billot et
al., 2023) where it has them.
"""

import numpy as np
import torch

from data.synthesis.crop import Crop
from data.synthesis.fields import FWHM, blur, noise, smooth_noise
from data.synthesis.tissues import TISSUES

CONTRASTS = {"t1": 0.5, "water": 0.2, "random": 0.3}  # water: T2- or PD-like


def draw_mri(crop: Crop, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
    """An MRI of the crop's tissues, before lesions, masks and scaling.

    Args:
        crop: the tissues.
        rng: of all single numbers.
        generator: of all fields.

    Returns:
        (D, H, W) float32, about 0 to 1.
    """
    mri = crop.paint(draw_contrast(rng) / 255)
    mri = _textured(mri, crop, rng, generator)
    mri = mri.clamp(min=0) ** np.exp(rng.normal(0, 0.3))
    mri = _biased(mri, crop, rng, generator)
    mri = _at_resolution(mri, crop, rng)
    return _noisy(mri, rng, generator)


def draw_contrast(rng: np.random.Generator) -> np.ndarray:
    """(tissues,) mean grey values, of 255."""
    kind = rng.choice(list(CONTRASTS), p=list(CONTRASTS.values()))
    if kind == "t1":
        means, spreads = np.array([tissue.t1 for tissue in TISSUES]).T
        table = rng.normal(means, spreads)
    elif kind == "water":
        # between proton density, where grey and white are near each other, and heavy T2 weighting
        water = np.array([tissue.t2 for tissue in TISSUES], float)
        weighting = rng.uniform(0.5, 1.2)
        table = 255 * (water / 255) ** weighting * rng.uniform(0.9, 1.1, len(TISSUES))
    else:
        table = rng.uniform(25, 225, len(TISSUES))
    table[0] = abs(rng.normal(0, 3))  # air around the head is dark in every contrast
    return table.clip(0, 255)


def _textured(
    mri: torch.Tensor, crop: Crop, rng: np.random.Generator, generator: torch.Generator
) -> torch.Tensor:
    """Tissue is not of one grey: 2 to 8 % of change within 0.5 to 2 mm, and over centimetres."""
    fine = blur(noise(mri.shape, generator, mri), rng.uniform(0.5, 2) / crop.voxel_mm)
    fine = fine / fine.std().clamp(min=1e-6)
    slow = smooth_noise(mri.shape, rng.uniform(10, 30) / crop.voxel_mm.mean(), generator, mri)
    return mri * (1 + rng.uniform(0.02, 0.08) * fine + rng.uniform(0, 0.06) * slow)


def _biased(
    mri: torch.Tensor, crop: Crop, rng: np.random.Generator, generator: torch.Generator
) -> torch.Tensor:
    """A receive coil's bias field: exp of a smooth field with standard deviation up to 0.5."""
    strength = rng.uniform(0, 0.5)
    spacing = rng.uniform(60, 120) / crop.voxel_mm.mean()
    return mri * torch.exp(strength * smooth_noise(mri.shape, spacing, generator, mri) / 2)


def _at_resolution(mri: torch.Tensor, crop: Crop, rng: np.random.Generator) -> torch.Tensor:
    """As it is, isotropic up to 3 mm, or slices of 3 to 6 mm."""
    kind = rng.choice(3, p=[0.6, 0.2, 0.2])
    fwhm = np.full(3, rng.uniform(0.5, 1.1))
    if kind == 1:
        fwhm[:] = rng.uniform(1, 3)
    elif kind == 2:
        fwhm[rng.integers(3)] = rng.uniform(3, 6)
    return blur(mri, fwhm / FWHM / crop.voxel_mm)


def _noisy(mri: torch.Tensor, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
    """Rician noise: a complex signal with up to 5 % of noise in both parts, mostly less."""
    level = 0.05 * rng.uniform() ** 2 * float(mri.max())
    real = mri + level * noise(mri.shape, generator, mri)
    imaginary = level * noise(mri.shape, generator, mri)
    return torch.hypot(real, imaginary)
