"""Weights that are given away: what comes back, and everything that is refused."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save

from inference.trained import is_own, load_model
from tests.helpers.runs import save_small_weights
from training import weights
from training.config import TrainConfig
from utils.errors import InputError


@pytest.fixture
def saved(tmp_path):
    """A file of weights of an untrained network, and the network."""
    path = tmp_path / "dc2fusion.safetensors"
    return path, save_small_weights(path)


def rewrite(path, tensors=None, header=None, **about):
    """Write a file again with other content, and a JSON with the hash that fits."""
    record = json.loads(path.with_suffix(".json").read_text())
    record["about"] |= about
    header = weights._header(record["about"]) if header is None else header
    content = save(load_file(path) if tensors is None else tensors, header)
    path.write_bytes(content)
    record["sha256"] = hashlib.sha256(content).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(record))


def test_weights_come_back_rounded_to_16_bits_and_in_32(saved):
    path, model = saved
    trained = load_model(path)
    assert is_own(path) and not trained.model.training
    assert (trained.size, trained.recipe) == (40, "paper")
    assert trained.objective == "ssim-gradient-intensity:1.2:1.8"
    assert trained.model.default_balance == 0.4
    assert "of 2026-01-01" in trained.description
    ours = trained.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert ours[name].dtype == tensor.dtype
        rounded = tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(ours[name], rounded)


def test_the_header_says_what_the_json_says(saved):
    path, _ = saved
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    about = json.loads(path.with_suffix(".json").read_text())["about"]
    assert header["format"] == weights.FORMAT and header["date"] == about["date"]
    assert json.loads(header["config"]) == about["config"]
    assert TrainConfig.from_dict(about["config"]).embed_dim == 24


def test_what_16_bits_cannot_hold_is_not_written():
    for value in (1e5, float("nan")):
        with pytest.raises(ValueError, match="a.b"):
            weights.to_stored({"a.b": torch.tensor([1.0, value])})


class TestRefused:
    def refuse(self, path, match, source=None):
        with pytest.raises(InputError, match=match) as refusal:
            load_model(path)
        assert refusal.value.source == str(source or path)

    @pytest.mark.parametrize("place", [0, 3, 8, 60, 0.1, 0.5, -1])
    def test_a_flipped_bit_anywhere(self, saved, place):
        path, _ = saved
        content = bytearray(path.read_bytes())
        content[int(place * len(content)) if isinstance(place, float) else place] ^= 16
        path.write_bytes(content)
        self.refuse(path, "SHA-256")

    @pytest.mark.parametrize("length", [0, 5, 100, -1])
    def test_truncated(self, saved, length):
        path, _ = saved
        path.write_bytes(path.read_bytes()[:length])
        self.refuse(path, "SHA-256")

    def test_missing(self, saved):
        path, _ = saved
        path.unlink()
        self.refuse(path, "no such file")

    def test_without_its_json(self, saved):
        path, _ = saved
        path.with_suffix(".json").unlink()
        self.refuse(path, "no such file", path.with_suffix(".json"))

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 1, "about": {}}', "\xff"])
    def test_a_json_of_something_else(self, saved, text):
        path, _ = saved
        path.with_suffix(".json").write_text(text, encoding="latin-1")
        self.refuse(path, "record of weights|UTF-8", path.with_suffix(".json"))

    @pytest.mark.parametrize("steps", ["-1", '"3"', "0.5", "null"])
    def test_a_json_with_steps_that_nobody_can_take(self, saved, steps):
        path, _ = saved
        record = path.with_suffix(".json")
        record.write_text(record.read_text().replace('"refine": 0', f'"refine": {steps}'))
        self.refuse(path, "record of weights", record)

    def test_a_json_of_other_weights(self, saved, tmp_path):
        path, _ = saved
        other = tmp_path / "other" / path.name
        save_small_weights(other, size=44)
        path.with_suffix(".json").write_bytes(other.with_suffix(".json").read_bytes())
        self.refuse(path, "SHA-256")

    def test_a_json_that_says_something_else(self, saved):
        path, _ = saved
        record = path.with_suffix(".json")
        record.write_text(record.read_text().replace('"balance": 0.4', '"balance": 0.6'))
        self.refuse(path, "header")

    def test_another_form(self, saved):
        path, _ = saved
        rewrite(path, header={"format": "pt"})
        self.refuse(path, "header")

    def test_a_pickle_runs_no_code(self, saved):
        path, _ = saved
        torch.save({"model": torch.zeros(3)}, path)
        record = json.loads(path.with_suffix(".json").read_text())
        record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_suffix(".json").write_text(json.dumps(record))
        self.refuse(path, "no safetensors file")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda t: t.pop("head.to_maps.bias"), "head.to_maps.bias is missing"),
            (lambda t: t.update(strange=torch.zeros(1)), "strange is of another network"),
            (lambda t: t.update({"head.to_maps.bias": torch.zeros(3).half()}), r"shape \(3,\)"),
            (lambda t: t.update({"head.to_maps.bias": torch.zeros(2)}), "torch.float32"),
            (lambda t: t.update({"head.to_maps.bias": torch.zeros(2).int()}), "torch.int32"),
        ],
    )
    def test_tensors_of_another_network(self, saved, change, match):
        path, _ = saved
        tensors = load_file(path)
        change(tensors)
        rewrite(path, tensors)
        self.refuse(path, match)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"embed_dim": 48}, "its tensor .* shape"),
            ({"embed_dim": 25}, "multiple of 24"),
            ({"new_flag": 1}, "new_flag"),
        ],
    )
    def test_a_configuration_that_does_not_fit(self, saved, change, match):
        path, _ = saved
        config = json.loads(path.with_suffix(".json").read_text())["about"]["config"]
        rewrite(path, config=config | change)
        self.refuse(path, match)

    def test_another_variant(self, saved):
        path, _ = saved
        with pytest.raises(InputError, match="--variant.*released"):
            load_model(path, "released")


class TestStart:
    def start(self, path, **given):
        return weights.start_from(weights.read(path), given)

    def test_what_is_not_given_is_theirs(self, tmp_path):
        path = tmp_path / "w.safetensors"
        save_small_weights(path, objective="salient-additive", network="compact")
        given = self.start(path, lr=1e-5, depths=[1, 1])
        config = TrainConfig.of({**given, "init": "weights"})
        assert (config.embed_dim, config.depths, config.balance) == (24, (1, 1), "any")
        assert config.network == "compact"
        assert (config.objective, config.lr, config.warmup) == ("salient-additive", 1e-5, 10)
        assert self.start(path, objective="lncc-ssim-l1")["objective"] == "lncc-ssim-l1"

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"embed_dim": 48}, "--embed-dim: 48.*24"),
            ({"depths": [2, 2]}, "--depths"),
            ({"network": "paper"}, "--network: paper"),
            ({"switched": ["R4"]}, "--switch"),
            ({"balance": "fixed"}, "--balance: fixed.*any"),
            ({"alpha1": 2.0}, "--alpha1.*any balance"),
            ({"model": "matr", "init": "weights"}, "--init.*matr"),
        ],
    )
    def test_another_network_is_refused(self, saved, given, match):
        with pytest.raises(InputError, match=match):
            self.start(saved[0], **given)
