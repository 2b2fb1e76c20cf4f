"""The head of bands: both backends agree."""

import pytest
import torch

from models.ops.bands import fine_bands, gaussian_kernels, weighted_sum
from tests.helpers.backends import assert_backends_agree


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("shape", [(1, 1, 16, 12, 20), (2, 1, 4, 8, 4)])
@pytest.mark.parametrize("part", [0, 1])
def test_fine_bands(shape, part):
    assert_backends_agree(
        lambda volume: fine_bands(volume, gaussian_kernels())[part], [drawn(*shape)]
    )


@pytest.mark.parametrize("shape", [(1, 3, 4, 3, 5), (2, 2, 1, 2, 1)])
def test_weighted_sum(shape):
    batch, channels, *grid = shape
    bands = drawn(batch, channels, *(4 * side for side in grid), seed=1)
    assert_backends_agree(weighted_sum, [drawn(*shape), bands])
