"""Optimisers: what Muon makes of a gradient, which weights are its own, that it descends."""

import pytest
import torch
from torch import nn

from training.build import build_network
from training.config import TrainConfig
from training.optimizer import ADAM_LENGTH, Muon, build_optimizers, matrices, orthogonalised


@pytest.mark.parametrize("shape", [(24, 24), (96, 12), (3, 192), (1, 12)])
def test_singular_values_become_nearly_one_and_directions_stay(shape):
    """Also where one direction outweighs the others a hundred times."""
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(shape).double(), full_matrices=False)
    values = torch.logspace(0, -2, len(values), dtype=torch.float64)
    found = orthogonalised(left @ torch.diag(values) @ right)
    there = left.T @ found @ right.T
    assert there.diagonal().min() > 0.68 and there.diagonal().max() < 1.3
    torch.testing.assert_close(there, torch.diag(there.diagonal()), rtol=0, atol=1e-9)
    once = orthogonalised((left @ torch.diag(values) @ right).float())
    torch.testing.assert_close(once.double(), found, rtol=0, atol=1e-4)


def test_no_gradient_is_no_step():
    assert torch.equal(orthogonalised(torch.zeros(4, 3)), torch.zeros(4, 3))
    given = torch.randn(4, 3)
    parameter, other = nn.Parameter(given.clone()), nn.Parameter(given.clone())
    optimizer = Muon([parameter, other], lr=1.0)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(parameter, given) and torch.equal(other, given)


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_a_step_is_as_long_as_adams_whatever_the_gradient(rate):
    torch.manual_seed(0)
    for size in (1e-6, 1e3):
        parameter = nn.Parameter(torch.zeros(64, 8, 3, 3, 3))
        parameter.grad = size * torch.randn_like(parameter)
        Muon([parameter], rate).step()
        length = parameter.detach().square().mean().sqrt()
        assert float(length) == pytest.approx(0.5 * ADAM_LENGTH, rel=0.15)


def test_each_parameter_has_one_optimiser_and_matrices_have_muon():
    config = TrainConfig.of({"network": "compact", "embed_dim": 24, "optimizer": "muon"})
    network = build_network(config)
    adam, muon = build_optimizers(config, network, in_graph=False)
    assert isinstance(adam, torch.optim.Adam) and isinstance(muon, Muon)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    own = [
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (adam, muon)
    ]
    assert not own[0] & own[1] and own[0] | own[1] == set(names.values())
    assert {"patch_embedding.weight", "encoder.0.0.mlp.0.weight"} <= own[1]
    assert {"encoder.0.0.relationship.depthwise.weight", "encoder.0.0.norm.weight"} <= own[0]
    assert not any("blend_conv" in name or name.endswith("bias") for name in own[1])


def test_both_together_find_a_map():
    """Inputs of which one direction outweighs the others, as pairs of images have it."""
    torch.manual_seed(0)
    wanted = nn.Linear(16, 16)
    inputs = torch.randn(400, 16) @ torch.diag(torch.logspace(0, -1, 16))
    network = nn.Linear(16, 16)
    config = TrainConfig.of({"optimizer": "muon"})
    both = build_optimizers(config, network, in_graph=False)
    error = []
    for step in range(400):
        for optimizer in both:
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 400)
        batch = inputs[step % 200 :: 200]
        network.zero_grad()
        (network(batch) - wanted(batch)).square().mean().backward()
        for optimizer in both:
            optimizer.step()
        error.append((network.weight - wanted.weight).norm().item())
    assert error[-1] < 0.1 * error[0]


def test_a_head_of_patches_gives_its_transposed_convolutions():
    network = build_network(TrainConfig.of({"embed_dim": 24, "depths": (1, 1)}))
    kinds = {type(module) for module in network.modules() if hasattr(module, "weight")}
    transposed = [m.weight for m in network.modules() if isinstance(m, nn.ConvTranspose3d)]
    assert nn.ConvTranspose3d in kinds
    assert {id(weight) for weight in transposed} <= set(map(id, matrices(network)))
