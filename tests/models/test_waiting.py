"""Nothing in a step waits for the device, which a CUDA graph could not record.

A GPU is waited for where a tensor becomes a number, and where one is made of numbers: those are
copied from the CPU. Both show on the CPU, too.
"""

import traceback
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losses import OBJECTIVES, build_objective
from models import build_model
from models.dc2fusion import NETWORKS

ROOT = Path(__file__).resolve().parents[2]
WAITING = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "equal")
CHECKED = {"models/balance.py"}  # a balance that lies on the CPU, not one that lies on a GPU


class Watching(TorchDispatchMode):
    """Notes the files of this project from which an operation was called that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation.__name__.split(".")[0] in WAITING:
            files = [Path(frame.filename) for frame in traceback.extract_stack()[:-1]]
            own = [file for file in files if ROOT in file.parents and ".venv" not in file.parts]
            self.found.add(str(own[-1].relative_to(ROOT)))
        return operation(*arguments, **(options or {}))


def found_in(model: torch.nn.Module, objective_name: str) -> set[str]:
    """Files that wait in a forward and a backward pass."""
    mri, pet = torch.rand(2, 1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    share = torch.tensor(0.4)
    objective = build_objective(objective_name, *[(3 * share, 3 * (1 - share))] * 3)
    with Watching() as watching:
        loss, _ = objective(model(mri, pet, share), mri, pet)
        loss.backward()
    return watching.found


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_network_does_not_wait(network, variant):
    options = NETWORKS[network] | {"embed_dim": 24}
    model = build_model("dc2fusion", **options, variant=variant, balanced=True)
    assert found_in(model, "salient-composite") <= CHECKED


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_does_not_wait(objective):
    model = build_model("dc2fusion", embed_dim=24, depths=(1,), head="bands", balanced=True)
    assert found_in(model, objective) <= CHECKED


def test_what_waits_is_found():
    class Waiting(torch.nn.Module):
        def forward(self, mri, pet, balance):
            return mri.clone().requires_grad_() * mri.new_tensor([1.0])

    assert Path(__file__).name in {Path(file).name for file in found_in(Waiting(), "lncc-ssim-l1")}
