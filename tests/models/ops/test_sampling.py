"""Sampling: both backends agree, and positions are what they are said to be."""

import pytest
import torch
from torch.nn import functional as F

from models.ops.sampling import reference_points, sample_partner
from tests.helpers.backends import assert_backends_agree


@pytest.mark.parametrize("aligned_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 4, 5, 6, 3), (1, 1, 2, 7, 4)])
def test_backends_agree(aligned_corners, size):
    """Of offsets up to two tokens, so that positions beyond every border occur."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
    offsets = 2 * torch.rand(*size[:4], 3, generator=generator, dtype=torch.float64) - 1
    offsets = (offsets * 4 / torch.tensor(size[1:4])).requires_grad_()
    assert_backends_agree(
        lambda *tensors: sample_partner(*tensors, aligned_corners), [tokens, offsets]
    )


def test_offsets_that_are_nan():
    """A network that diverged ends in NaN, which training names, not in an index out of range."""
    tokens, offsets = torch.randn(1, 3, 3, 3, 2), torch.zeros(1, 3, 3, 3, 3)
    offsets[0, 1, 1, 1, 0] = torch.nan
    sampled = sample_partner(tokens, offsets, False)
    assert sampled[0, 1, 1, 1].isnan().all()
    assert torch.allclose(sampled[0, 0], tokens[0, 0], atol=1e-6)


def test_reference_points_are_the_centres_of_the_tokens():
    grid = F.affine_grid(torch.eye(3, 4)[None], (1, 1, 2, 3, 4), align_corners=False)
    expected = grid[0].flip(-1)
    assert torch.allclose(reference_points(torch.zeros(1, 2, 3, 4, 8)), expected)
