"""The windows of the encoder, against attention written out token by token in float64."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from models.registration.swin import (
    PatchMerging,
    SwinBlock,
    SwinEncoder,
    from_windows,
    relative_positions,
    to_windows,
)
from tests.helpers.transmorph import position_rows

GRID, WINDOW = (3, 4, 5), (2, 3, 2)


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def side_by_token(place: int, side: int, window: int, shift: int) -> tuple[int, int, int]:
    """Window, place inside it and region of a token on one axis of the padded grid."""
    rolled = (place - shift) % side
    region = 0
    if shift:
        region = (rolled >= side - window) + (rolled >= side - shift)
    return rolled // window, rolled % window, region


def attention_token_by_token(block: SwinBlock, tokens: torch.Tensor) -> torch.Tensor:
    """What `SwinBlock.attend` computes for (D, H, W, C), without rolling or cutting anything."""
    attention, shift = block.attention, block.shift
    heads, c = attention.heads, tokens.shape[-1]
    padded = [side + -side % window for side, window in zip(GRID, WINDOW, strict=True)]
    rows, at = [], {}
    for place in product(*map(range, padded)):
        inside = all(i < side for i, side in zip(place, GRID, strict=True))
        rows.append(tokens[place] if inside else torch.zeros(c, dtype=torch.float64))
        axes = [
            side_by_token(*of_axis) for of_axis in zip(place, padded, WINDOW, shift, strict=True)
        ]
        at[place] = tuple(zip(*axes, strict=True))
    q, k, v = F.linear(torch.stack(rows), attention.qkv.weight).chunk(3, dim=-1)
    q, k, v = (part.view(len(rows), heads, c // heads) for part in (q, k, v))
    positions = position_rows(WINDOW)
    order = {token: n for n, token in enumerate(product(*map(range, WINDOW)))}
    result = torch.zeros_like(tokens)
    for i, query in enumerate(at):
        if any(place >= side for place, side in zip(query, GRID, strict=True)):
            continue
        window, token, region = at[query]
        js, logits = [], []
        for j, key in enumerate(at):
            if at[key][0] != window:
                continue
            bias = attention.bias_table[positions[order[token], order[at[key][1]]]]
            logit = (q[i] * k[j]).sum(dim=-1) / (c // heads) ** 0.5 + bias
            logits.append(logit if at[key][2] == region else logit - 100)
            js.append(j)
        weights = torch.stack(logits).softmax(dim=0)  # keys, heads
        mixed = (weights.unsqueeze(-1) * v[js]).sum(dim=0).flatten()
        result[query] = attention.proj(mixed)
    return result


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_equals_the_one_written_out(shifted):
    torch.manual_seed(0)
    block = SwinBlock(8, 2, WINDOW, shifted, drop_path=0.0).double()
    torch.nn.init.normal_(block.attention.bias_table)
    tokens = random(2, *GRID, 8)
    with torch.no_grad():
        ours = block.attend(tokens)
        for sample in range(2):
            expected = attention_token_by_token(block, tokens[sample])
            assert torch.allclose(ours[sample], expected, rtol=0, atol=1e-12)


def test_gradients_and_inference_take_one_mathematics():
    torch.manual_seed(0)
    block = SwinBlock(8, 2, WINDOW, True, drop_path=0.0).double().eval()
    tokens = random(2, *GRID, 8)
    with torch.inference_mode():
        without = block(tokens)
    assert torch.allclose(block(tokens), without, rtol=0, atol=1e-12)


def test_no_axis_is_shifted_where_one_window_has_a_single_token():
    assert SwinBlock(8, 2, (2, 1, 4), True, 0.0).shift == (0, 0, 0)
    assert SwinBlock(8, 2, (5, 6, 7), True, 0.0).shift == (2, 3, 3)
    assert SwinBlock(8, 2, (5, 6, 7), False, 0.0).shift == (0, 0, 0)


def test_positions_are_the_published_rows():
    assert torch.equal(relative_positions((2, 3, 4)), position_rows((2, 3, 4)))


def test_windows_are_cut_row_by_row_and_put_back():
    tokens = torch.arange(4 * 6 * 4).view(1, 4, 6, 4, 1)
    windows = to_windows(tokens, (2, 3, 2))
    assert windows.shape == (1, 8, 12, 1)
    assert windows[0, 1, :, 0].tolist() == tokens[0, :2, :3, 2:].flatten().tolist()
    assert torch.equal(from_windows(windows, (4, 6, 4), (2, 3, 2)), tokens)


def test_merging_concatenates_in_the_published_order():
    merging = PatchMerging(1)
    tokens = torch.zeros(1, 2, 2, 2, 1)
    seen = []
    merging.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten()))
    for place in ("000", "100", "010", "001", "110", "011", "101", "111"):
        one = tokens.clone()
        one[0, int(place[0]), int(place[1]), int(place[2])] = 1
        merging(one)
    assert torch.equal(torch.stack(seen), torch.eye(8))


def test_stochastic_depth_grows_over_all_blocks_and_drops_whole_samples():
    encoder = SwinEncoder(8, (2, 2, 4, 2), (2, 2, 2, 2), (2, 2, 2), drop_path=0.3)
    rates = [block.drop_path.drop_prob for stage in encoder.stages for block in stage.blocks]
    assert rates == pytest.approx([0.3 * block / 9 for block in range(10)])

    torch.manual_seed(0)
    block = SwinBlock(8, 2, (2, 2, 2), False, drop_path=0.5).double()
    tokens = random(1, 2, 2, 2, 8).repeat(200, 1, 1, 1, 1)
    with torch.no_grad():
        attended = block.eval().attend(block.norm1(tokens))
        first = block.train().drop_path(attended)
    kept = first.flatten(1).any(dim=1)
    assert 60 < kept.sum() < 140
    assert torch.allclose(first[kept], 2 * attended[kept])


def test_features_have_the_widths_and_grids_of_the_stages():
    encoder = SwinEncoder(8, (1, 1, 1, 1), (1, 1, 2, 2), (2, 2, 2), drop_path=0.0)
    features = encoder(torch.zeros(2, 2, 32, 64, 32))
    shapes = [tuple(feature.shape) for feature in features]
    assert shapes == [
        (2, 8, 8, 16, 8), (2, 16, 4, 8, 4), (2, 32, 2, 4, 2), (2, 64, 1, 2, 1),
    ]  # fmt: skip
