"""The sampling kernels against grid_sample."""

import pytest
import torch

from models import ops
from models.ops.kernels import tiles
from models.ops.sampling import sample_partner


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def offset_field(*shape: int) -> torch.Tensor:
    """(B, D, H, W, 3) of up to one token, many close to that."""
    return 2 * torch.tanh(2 * torch.randn(*shape, 3)) / torch.tensor(shape[1:])


def tokens(*shape: int) -> torch.Tensor:
    """(B, D, H, W, C) that is not contiguous."""
    return torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((2, 2, 3, 4, 5), tiles.Tile(rows=32, channels=4, warps=1)),
        ((1, 1, 5, 1, 3), tiles.SAMPLING),
        pytest.param((2, 9, 17, 13, 96), tiles.SAMPLING, marks=pytest.mark.gpu),
    ],
)
def test_sample_partner(agree, monkeypatch, aligned, shape, tile):
    monkeypatch.setattr(tiles, "SAMPLING", tile)
    agree(
        lambda *tensors: sample_partner(*tensors, aligned),
        [tokens(*shape), offset_field(*shape[:-1])],
        # Positions differ by rounding, and so do the weights of their neighbours.
        tolerance=2e-5,
    )


def test_every_source_is_reached_by_offsets_of_a_whole_token(agree):
    """All positions a token lower, or higher: the farthest targets of every source."""
    sides = torch.tensor((3, 2, 4))
    for sign in (-1, 1):
        # A little less than a token: at exactly one, the slope depends on the last bit.
        offsets = sign * (2 * 0.999 / sides).expand(1, 3, 2, 4, 3)
        agree(
            lambda *tensors: sample_partner(*tensors, True),
            [tokens(1, 3, 2, 4, 2), offsets],
            tolerance=2e-5,
        )


def test_bfloat16_tokens_keep_their_type(device):
    values, offsets = tokens(1, 2, 3, 2, 4).to(device), offset_field(1, 2, 3, 2).to(device)
    values = values.bfloat16().requires_grad_()
    sampled = sample_partner(values, offsets, False)
    with ops.using("plain"):
        expected = sample_partner(values.detach().float(), offsets, False)
    assert sampled.dtype == torch.bfloat16
    assert (sampled.float() - expected).norm() < 2**-7 * expected.norm()
    sampled.float().sum().backward()
    assert values.grad.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_position_that_is_not_a_number_gives_no_number(device):
    values, offsets = tokens(1, 2, 2, 2, 3).to(device), offset_field(1, 2, 2, 2).to(device)
    offsets[0, 1, 0, 1, 2] = torch.nan
    sampled = sample_partner(values, offsets, False)
    assert sampled[0, 1, 0, 1].isnan().all()
    assert sampled.isnan().sum() == 3
