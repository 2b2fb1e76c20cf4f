"""The block: where it looks, and which channels its convolution blends."""

import torch

from models import build_model
from models.dcfb import BlendConv
from tests.helpers.golden import relative_error


@torch.no_grad()
def test_zero_offset_returns_the_partner_in_the_paper_variant_only():
    tokens = torch.rand(1, 6, 7, 8, 24)
    errors = {}
    for variant in ("paper", "released"):
        switched = () if variant == "paper" else ("R8",)  # leaves [R1] as the only difference
        model = build_model("dc2fusion", embed_dim=24, variant=variant, switched=switched)
        relationship = model.encoder[0][0].relationship
        relationship.to_offset.weight.zero_()
        errors[variant] = relative_error(relationship(tokens, tokens), tokens)
    assert errors["paper"] < 1e-5
    assert errors["released"] > 0.05


@torch.no_grad()
def test_offsets_are_at_most_one_token():
    model = build_model("dc2fusion", embed_dim=24)
    relationship = model.encoder[0][0].relationship
    relationship.to_offset.weight.mul_(1e4)
    x, y = torch.rand(2, 1, 5, 8, 10, 24)
    tokens_moved = relationship.offset_field(x, y) * torch.tensor([5, 8, 10]) / 2
    assert tokens_moved.abs().max() <= 1 + 1e-6
    assert tokens_moved.abs().max() > 0.99


def test_a_group_sees_both_streams_unless_groups_are_concatenated():
    x, partner = torch.randn(2, 1, 8, 5, 5, 5)
    paper, released = BlendConv(8), BlendConv(8, concatenated_groups=True)
    silent = torch.zeros_like(partner)
    # Channel 0 of the output sees x_0 and y'_0 in the paper's form, x_0 and x_1 in the released
    # one.
    assert not torch.allclose(paper(x, partner)[:, 0], paper(x, silent)[:, 0])
    assert torch.allclose(released(x, partner)[:, 0], released(x, silent)[:, 0])
