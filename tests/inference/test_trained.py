"""Trained networks: every way to name one, and what is refused."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from inference.trained import is_own, load_model, locate
from models import build_model
from tests.helpers.golden import rule_filled_released_state
from tests.helpers.runs import save_untrained
from training import checkpoint
from training.build import build_network
from training.config import TrainConfig
from utils.errors import InputError


@pytest.fixture
def saved(tmp_path):
    """An own checkpoint of an untrained network, and the network."""
    path = tmp_path / "run" / "last.pt"
    return path, save_untrained(path)


def test_a_saved_network_comes_back_with_its_preprocessing(saved):
    path, model = saved
    trained = load_model(path)
    assert (trained.recipe, trained.size) == ("released", 40)
    assert trained.model.variant == model.variant and not trained.model.training
    ours = trained.model.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in model.state_dict().items())


def test_a_checkpoint_from_before_the_2d_methods_is_dc2fusion(saved):
    path, model = saved
    content = checkpoint.read(path)
    for key in ("model", "plane", "vgg"):
        del content["config"][key]
    torch.save(content, path)
    trained = load_model(path)
    assert type(trained.model) is type(model) and "dc2fusion" in trained.description


@pytest.mark.parametrize("name", ["swinfuse", "u2fusion", "dilran", "matr"])
def test_a_2d_method_comes_back_on_its_plane(saved, name):
    path, _ = saved
    config = TrainConfig.of({"model": name, "plane": "coronal", "size": 40})
    model = build_network(config)
    content = checkpoint.read(path) | {"config": config.to_dict(), "model": model.state_dict()}
    torch.save(content, path)
    trained = load_model(path)
    assert type(trained.model.method) is type(model.method) and trained.model.plane == "coronal"
    assert f"{name}, on coronal slices, epoch 3" in trained.description
    ours = trained.model.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in model.state_dict().items())
    with pytest.raises(InputError, match=f"--variant.*{name}"):
        load_model(path, "paper")


def test_a_run_folder_means_its_best_checkpoint(saved):
    path, _ = saved
    assert locate(path.parent) == path
    shutil.copy(path, path.with_name("best.pt"))
    assert locate(path.parent) == path.with_name("best.pt")


def test_an_own_checkpoint_is_told_from_published_weights(tmp_path):
    torch.save({"format": "dc2fusion-1", "model": {}}, tmp_path / "last.pt")
    torch.save(build_model("matr").method.state_dict(), tmp_path / "model_10.pth")
    np.savez(tmp_path / "w.npz", a=np.zeros(1))
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "just-begun").mkdir()
    (tmp_path / "just-begun" / "config.json").touch()
    assert is_own(tmp_path) and is_own(tmp_path / "last.pt") and is_own(tmp_path / "just-begun")
    for other in ("model_10.pth", "w.npz", "tensorflow", "nowhere.pt"):
        assert not is_own(tmp_path / other)


class TestReleased:
    @pytest.fixture
    def released(self, tmp_path):
        path = tmp_path / "released.pth"
        torch.save(rule_filled_released_state(), path)
        return path

    def test_the_width_is_read_off_and_skipped_keys_are_said(self, released):
        trained = load_model(released, "released")
        assert trained.model.head.norm.normalized_shape == (48,)
        assert (trained.recipe, trained.size) == ("released", 128)
        assert "50 tensors skipped" in trained.description

    def test_released_is_taken_unless_the_variant_is_given(self, released):
        assert load_model(released).model.variant.linear_attention
        assert not load_model(released, "paper").model.variant.linear_attention

    def test_a_key_too_few_names_the_file(self, tmp_path):
        state = dict(rule_filled_released_state())
        del state["out_conv.bias"]
        path = tmp_path / "cut.pth"
        torch.save(state, path)
        with pytest.raises(InputError, match=r"cut\.pth.*head\.to_maps\.bias"):
            load_model(path)


class TestRefused:
    def refuse(self, path, match):
        with pytest.raises(InputError, match=match) as refusal:
            load_model(path)
        assert str(path) in str(refusal.value)

    def test_missing(self, tmp_path):
        self.refuse(tmp_path / "no.pt", "no such checkpoint")

    def test_a_folder_without_one(self, tmp_path):
        self.refuse(tmp_path, "best.pt")

    def test_truncated(self, saved):
        path, _ = saved
        path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3])
        self.refuse(path, "truncated")

    def test_empty(self, tmp_path):
        (tmp_path / "empty.pt").touch()
        self.refuse(tmp_path / "empty.pt", "truncated or not a checkpoint")

    def test_a_text(self, tmp_path):
        (tmp_path / "text.pt").write_text("weights")
        self.refuse(tmp_path / "text.pt", "not a checkpoint")

    @pytest.mark.parametrize("through", ["torch", "pickle"])
    def test_a_pickle_that_wants_to_run_code(self, tmp_path, through):
        marker = tmp_path / "ran"

        class Attack:
            def __reduce__(self):
                return os.system, (f"touch {marker}",)

        path = tmp_path / "attack.pt"
        if through == "torch":
            torch.save({"model": Attack()}, path)
        else:
            path.write_bytes(pickle.dumps(Attack()))
        self.refuse(path, "could run code")
        assert not marker.exists()

    def test_another_architecture(self, tmp_path):
        torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "linear.pt")
        self.refuse(tmp_path / "linear.pt", "not DC2Fusion's")

    def test_a_single_tensor(self, tmp_path):
        torch.save(torch.zeros(3), tmp_path / "tensor.pt")
        self.refuse(tmp_path / "tensor.pt", "holds a Tensor")

    def test_tensors_that_do_not_fit_the_configuration(self, saved):
        path, _ = saved
        content = checkpoint.read(path)
        del content["model"]["head.to_maps.bias"]
        torch.save(content, path)
        self.refuse(path, "do not fit.*head.to_maps.bias")

    def test_a_configuration_of_another_version(self, saved):
        path, _ = saved
        content = checkpoint.read(path)
        content["config"]["new_flag"] = 1
        torch.save(content, path)
        self.refuse(path, "new_flag")

    def test_a_configuration_of_another_type(self, saved):
        path, _ = saved
        content = checkpoint.read(path)
        content["config"]["epochs"] = "many"
        torch.save(content, path)
        self.refuse(path, "epochs holds 'many'")

    def test_a_model_that_is_not_known(self, saved):
        path, _ = saved
        content = checkpoint.read(path)
        content["config"]["model"] = "fusiongan"
        torch.save(content, path)
        self.refuse(path, "model holds 'fusiongan'")

    def test_another_variant_than_it_was_trained_as(self, saved):
        path, _ = saved
        with pytest.raises(InputError, match="--variant.*released"):
            load_model(path, "paper")
