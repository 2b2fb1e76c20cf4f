"""The attention kernels against matrix products."""

import pytest
import torch

from models.ops.attention import window_attention
from tests.helpers.backends import on_both


def run(agree, size, heads, window, linear, dtype=torch.float32, tolerance=1e-5):
    torch.manual_seed(0)
    channels = size[-1]
    wide = torch.randn(3, *size[:-1], 2 * channels)
    tensors = [*wide[..., :channels], torch.rand(size[0], channels)]  # not contiguous
    agree(
        lambda *tensors: window_attention(*tensors, heads, window, linear),
        tensors,
        dtype,
        tolerance,
    )


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(
    ("size", "heads", "window"),
    [
        ((2, 4, 2, 6, 24), 3, (2, 2, 2)),  # 48 tokens: the last block is not full
        ((1, 2, 4, 6, 64), 2, (2, 2, 2)),
        ((1, 1, 4, 2, 6), 2, (1, 2, 2)),  # a head of three channels
        ((2, 1, 1, 1, 24), 3, (1, 1, 1)),
        ((1, 4, 1, 3, 8), 1, (2, 1, 1)),
        pytest.param((2, 6, 10, 8, 96), 3, (2, 2, 2), marks=pytest.mark.gpu),
    ],
)
def test_window_attention(agree, size, heads, window, linear):
    run(agree, size, heads, window, linear)


@pytest.mark.parametrize("linear", [False, True])
def test_bfloat16(agree, linear):
    # Gradients of query and key are differences, one side of which is read off the rounded output.
    run(agree, (1, 2, 2, 4, 32), 2, (2, 2, 2), linear, torch.bfloat16, 2**-7)


def test_large_scores_do_not_overflow(device):
    torch.manual_seed(0)
    query, key, value = (300 * torch.randn(3, 1, 2, 2, 2, 8)).to(device)
    gate = torch.ones(1, 8, device=device)
    plain, ours = on_both(window_attention, query, key, value, gate, 1, (2, 2, 2), False)
    assert torch.allclose(ours, plain)
