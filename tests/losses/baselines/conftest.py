"""Golden values of the 2-D methods' losses, and the pictures they belong to."""

import pytest
import torch

from tests.helpers.golden import golden_tensors


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return golden_tensors("baselines/losses.npz")


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PET, MRI and their average, (1, 1, 256, 256)."""
    arrays = golden_tensors("baselines/swinfuse_pipeline256_ruleB.npz")
    pet, mri = (arrays[key][None, None] for key in ("in_pet", "in_mri"))
    return pet, mri, (pet + mri) / 2
