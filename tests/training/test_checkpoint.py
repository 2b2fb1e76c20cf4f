"""Checkpoints: what is kept when one is replaced or cannot be written, and what comes back."""

import copy
import math
import os
import zipfile

import pytest
import torch

from tests.helpers.runs import save_untrained
from training import checkpoint, optimizer
from utils import archives
from utils.errors import InputError


@pytest.fixture
def saved(tmp_path):
    """An own checkpoint of an untrained network, and the network."""
    path = tmp_path / "run" / "last.pt"
    return path, save_untrained(path)


def test_random_states_are_restored():
    states = checkpoint.rng_states()
    drawn = torch.rand(3)
    checkpoint.restore_rng("last.pt", states)
    assert torch.equal(torch.rand(3), drawn)


def test_a_failing_write_leaves_nothing(saved, monkeypatch):
    path, _ = saved
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        checkpoint.save(path, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def flip(path, fraction):
    """One bit of a file changed."""
    content = bytearray(path.read_bytes())
    content[int(fraction * len(content))] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_a_flipped_bit_in_a_tensor_is_noticed(saved, fraction):
    path, _ = saved
    flip(path, fraction)
    with pytest.raises(InputError, match=r"last\.pt: .*(changed|damaged)"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    "pickled",
    [b"\x80\x02}q\x00K\x01s.", b"\x80\x02(t.", b"\x80\x02K\x01K\x02s.", b"\x80\x02h\x05."],
)
def test_a_pickle_that_makes_no_sense_is_said_in_a_line(tmp_path, pickled):
    path = tmp_path / "odd.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(InputError, match=r"odd\.pt"):
        checkpoint.read(path)


def test_what_unpacks_to_far_more_than_it_is_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.pt"
    torch.save({"zeros": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "b", "w", 8) as deflated:
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    monkeypatch.setattr(archives, "UNSUSPECTED_BYTES", 1 << 20)
    assert checkpoint.read(path)["zeros"].numel() == 1_000_000
    with pytest.raises(InputError, match=r"b: \d+ bytes claim to unpack to 40\d+"):
        checkpoint.read(tmp_path / "b")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("epoch", "3"), ("epoch", -1), ("epoch", True), ("step", 1.5), ("best", math.nan)),
        *(pytest.param(key, 10**400, id=f"{key}-401-digits") for key in ("epoch", "best")),
    ],
)
def test_impossible_values_are_refused(saved, key, value):
    path, _ = saved
    content = checkpoint.read(path) | {key: value}
    torch.save(content, path)
    with pytest.raises(InputError, match=f"its {key} is"):
        checkpoint.read_own(path)


def test_a_small_file_cannot_ask_for_a_huge_network(saved):
    path, _ = saved
    content = checkpoint.read(path)
    content["config"]["embed_dim"] = 24_000
    torch.save(content, path)
    with pytest.raises(InputError, match="too small for a network of width 24000"):
        checkpoint.read_own(path)


def test_a_tensor_of_another_type_is_refused(saved):
    path, _ = saved
    content, config = checkpoint.read_own(path)
    name = next(iter(content["model"]))
    content["model"][name] = content["model"][name].double()
    with pytest.raises(InputError, match=f"{name} holds torch.float64"):
        checkpoint.restore_model(path, content, config)


class TestOptimizer:
    """The moments of a checkpoint are those of these parameters, or they are refused."""

    @pytest.fixture(params=["Adam", "RMSprop", "Muon"])
    def stepped(self, request):
        """Function that makes an optimiser of two tensors and takes a step."""
        options = {"Adam": {"fused": True}, "RMSprop": {"momentum": 0.1}, "Muon": {}}[request.param]
        kind = getattr(optimizer, request.param, None) or getattr(torch.optim, request.param)

        def make(steps=1):
            torch.manual_seed(1)
            tensors = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(4, 1))]
            made = kind(tensors, lr=0.1, **options)
            for _ in range(steps):
                for tensor in tensors:
                    tensor.grad = torch.randn_like(tensor)
                made.step()
            return made

        return make

    def test_the_next_step_is_the_same(self, stepped):
        first, second = stepped(2), stepped(0)
        state = copy.deepcopy(first.state_dict())
        checkpoint.restore_optimizer("last.pt", state, second)
        for one, other in zip(
            first.param_groups[0]["params"], second.param_groups[0]["params"], strict=True
        ):
            other.data.copy_(one.data)
            one.grad, other.grad = torch.ones_like(one), torch.ones_like(one)
        first.step()
        second.step()
        for one, other in zip(
            first.param_groups[0]["params"], second.param_groups[0]["params"], strict=True
        ):
            assert torch.equal(one, other)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda moments: {n: m[:-1] if m.ndim else m for n, m in moments.items()},
            lambda moments: {n: m.double() for n, m in moments.items()},
            lambda moments: {n: [1.0] for n in moments},
            lambda moments: dict(list(moments.items())[1:]),
            lambda moments: moments | {"more": torch.zeros(5, 3)},
            lambda moments: {n: m.to("meta") for n, m in moments.items()},
            lambda moments: None,
        ],
    )
    def test_other_moments_are_refused(self, stepped, damage):
        optimizer = stepped()
        state = copy.deepcopy(optimizer.state_dict())
        state["state"][0] = damage(state["state"][0])
        with pytest.raises(InputError, match="optimiser"):
            checkpoint.restore_optimizer("last.pt", state, optimizer)

    def test_the_states_of_several_are_told_apart(self, stepped):
        both = [stepped(), stepped(2)]
        states = copy.deepcopy(checkpoint.optimizer_state(both))
        with pytest.raises(InputError, match="the state of 2 optimisers and not of 1"):
            checkpoint.restore_optimizers("last.pt", states, both[:1])
        fresh = [stepped(0), stepped(0)]
        checkpoint.restore_optimizers("last.pt", states, fresh)
        for one, other in zip(both, fresh, strict=True):
            expected, found = (made.state_dict()["state"][0] for made in (one, other))
            assert all(torch.equal(found[name], expected[name]) for name in expected)

    @pytest.mark.parametrize("state", [None, {}, {"state": {}, "param_groups": [{}]}])
    def test_no_state_at_all_is_refused(self, stepped, state):
        with pytest.raises(InputError, match="optimiser"):
            checkpoint.restore_optimizer("last.pt", state, stepped())

    def test_moments_of_a_tensor_too_many_are_refused(self, stepped):
        optimizer = stepped()
        state = optimizer.state_dict()
        state["state"][2] = state["state"][1]
        with pytest.raises(InputError, match="of other tensors"):
            checkpoint.restore_optimizer("last.pt", state, optimizer)

    def test_a_view_of_few_numbers_gets_memory_of_its_own(self, stepped):
        optimizer = stepped()
        state = copy.deepcopy(optimizer.state_dict())
        name = next(n for n, m in state["state"][0].items() if m.ndim)
        state["state"][0][name] = torch.ones(1, 1).expand(5, 3)
        checkpoint.restore_optimizer("last.pt", state, optimizer)
        tensor = optimizer.param_groups[0]["params"][0]
        assert optimizer.state[tensor][name].is_contiguous()


def test_random_states_that_are_none_are_refused():
    states = checkpoint.rng_states() | {"torch": torch.zeros(3)}
    with pytest.raises(InputError, match="random generators"):
        checkpoint.restore_rng("last.pt", states)


def score_of(path):
    return checkpoint.read(path)["best"]


class TestBest:
    """What a run that was killed at any moment has in `best.pt` after it goes on."""

    @pytest.mark.parametrize("there", [None, 0.4])
    def test_it_is_written_where_a_kill_prevented_that(self, saved, there):
        path, _ = saved
        best = path.with_name("best.pt")
        if there is not None:
            torch.save(checkpoint.read(path) | {"best": there}, best)
        checkpoint.complete_best(path.parent, checkpoint.read(path))
        assert score_of(best) == score_of(path) == 0.5

    @pytest.mark.parametrize("there", [0.5, 0.6])
    def test_it_stays_where_it_is_as_good(self, saved, there):
        path, _ = saved
        best = path.with_name("best.pt")
        torch.save(checkpoint.read(path) | {"best": there, "epoch": 1}, best)
        before = best.read_bytes()
        checkpoint.complete_best(path.parent, checkpoint.read(path))
        assert best.read_bytes() == before

    def test_a_damaged_one_is_told(self, saved, capsys):
        path, _ = saved
        best = path.with_name("best.pt")
        best.write_bytes(path.read_bytes()[:-1000])
        checkpoint.complete_best(path.parent, checkpoint.read(path))
        assert score_of(best) == 0.5 and "best.pt" in capsys.readouterr().err
