"""The configuration: one place for each setting, and old ones that go on loading."""

from dataclasses import fields, replace

import pytest

from data.settings import Cache, Preprocessing, Slicing
from training.build import build_network
from training.config import SETTINGS, TrainConfig, flag
from utils.errors import InputError

# As the first released version wrote it into checkpoints and config.json.
WRITTEN_EARLIER = {
    "data": "/data/adni",
    "train_list": None,
    "val_list": None,
    "recording": None,
    "run": None,
    "embed_dim": 48,
    "variant": "released",
    "switched": ["R4"],
    "fusion": None,
    "recipe": "released",
    "objective": "lncc-ssim-l1",
    "alpha1": 2.0,
    "alpha2": 1,
    "beta1": 2.0,
    "beta2": 1.0,
    "gamma1": 2.0,
    "gamma2": 1.0,
    "size": 64,
    "epochs": 10,
    "batch_size": 2,
    "lr": 0.0001,
    "seed": 1,
    "amp": True,
    "compile": False,
    "checkpoint_activations": False,
    "workers": 0,
    "cache": "memory",
    "val_every": 2,
    "best_by": "ssim-min",
    "gpus": [0, 1],
    "name": "old",
    "out": "result",
}


def test_a_configuration_from_before_the_2d_methods_loads():
    config = TrainConfig.from_dict(WRITTEN_EARLIER)
    assert config.model == "dc2fusion" and config.plane == "axial"
    assert config.switched == ("R4",) and config.gpus == (0, 1)
    rewritten = config.to_dict()
    assert {key: rewritten[key] for key in WRITTEN_EARLIER} == WRITTEN_EARLIER


@pytest.mark.parametrize(("variant", "switched"), [("paper", ("R4", "R10")), ("released", ("R4",))])
def test_a_network_from_before_there_was_a_gate_has_none(variant, switched):
    config = TrainConfig.from_dict(WRITTEN_EARLIER | {"variant": variant})
    assert config.switched == switched and config.depths == (2, 2, 6, 2)
    assert config.warmup == 0
    assert TrainConfig.from_dict(config.to_dict()) == config
    model = build_network(replace(config, embed_dim=24))
    assert not model.variant.gated and model.variant.linear_attention == (variant == "paper")


def test_what_is_written_is_read_back():
    for given in ({"model": "matr", "plane": "coronal", "gpus": (1, 2)}, {"network": "compact"}):
        config = TrainConfig.of(given)
        assert TrainConfig.from_dict(config.to_dict()) == config


def test_a_network_by_name_sets_what_is_not_given():
    config = TrainConfig.of({"network": "compact"})
    assert (config.network, config.embed_dim, config.depths) == ("compact", 96, (2, 2))
    config = TrainConfig.of({"network": "compact", "embed_dim": 48, "depths": [1, 2, 1]})
    assert (config.embed_dim, config.depths) == (48, (1, 2, 1))
    assert len(build_network(config).encoder) == 3


def test_the_initialisation_is_the_variants():
    assert TrainConfig.of({}).init == "identity"
    assert TrainConfig.of({"variant": "released"}).init == "default"
    assert TrainConfig.of({"init": "default"}).init == "default"


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 10),
        ({"warmup": 0}, 0),
        ({"init": "default"}, 0),
        ({"variant": "released"}, 0),
        ({"variant": "released", "init": "identity"}, 10),
        ({"model": "matr"}, 0),
    ],
)
def test_a_copy_of_the_inputs_is_warmed_up(given, steps):
    assert TrainConfig.of(given).warmup == steps


@pytest.mark.parametrize("depths", [(), (1, 1, 1, 1, 1)])
def test_one_to_four_stages(tmp_path, depths):
    with pytest.raises(InputError, match="--depths"):
        TrainConfig(depths=depths, out=str(tmp_path)).check()


def test_the_smallest_size_follows_from_the_stages():
    TrainConfig(size=16, depths=(2, 2)).check_batches(3)
    TrainConfig(size=40).check_batches(3)
    with pytest.raises(InputError, match="--size: 16 leaves one token.* above 16"):
        TrainConfig(size=16, depths=(1, 1, 1)).check_batches(3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("new_flag", 1, "keys are unknown: new_flag"),
        ("epochs", "many", "epochs holds 'many'"),
        ("amp", 1, "amp holds 1"),
        ("name", 3, "name holds 3"),
        ("switched", "R4", "switched holds 'R4'"),
        ("model", "fusiongan", "model holds 'fusiongan'"),
        ("model", None, "model holds None"),
        ("batch_size", 0, "batch_size holds 0"),
        ("batch_size", True, "batch_size holds True"),
        ("lr", float("nan"), "lr holds nan"),
        ("lr", "0.1", "lr holds '0.1'"),
        ("epochs", 2.5, "epochs holds 2.5"),
        ("size", 100_000, "size holds 100000"),
        ("workers", 10_000, "workers holds 10000"),
        ("seed", -1, "seed holds -1"),
        ("gpus", [0, 0], "gpus holds"),
        ("gpus", ["0"], "gpus holds"),
        ("depths", [2, "2"], "depths holds"),
        ("recipe", "mine", "recipe holds 'mine'"),
    ],
)
def test_another_configuration_is_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(WRITTEN_EARLIER | {key: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cuda_graph": True, "gpus": (0, 1)}, "--cuda-graph: does not go with several --gpus"),
        ({"cuda_graph": True, "compile": True}, "--cuda-graph: does not go with --compile"),
        ({"drawn_sizes": (64, 8)}, "--drawn-sizes: 8 is below 16"),
        ({"drawn_sizes": (64,), "batch_size": 2}, "--drawn-sizes: .* no batch of 2"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.of(given).check()


def test_given_goes_before_published_goes_before_default():
    config = TrainConfig.of({"model": "u2fusion", "lr": 0.5})
    assert (config.epochs, config.batch_size, config.lr) == (3, 18, 0.5)
    assert config.seed == TrainConfig.seed
    assert TrainConfig.of({"variant": "released"}).recipe == "released"
    assert TrainConfig.of({"variant": "released", "recipe": "paper"}).recipe == "paper"


def test_what_the_data_sets_get():
    config = TrainConfig.of({"model": "swinfuse", "size": 40, "plane": "sagittal", "out": "runs"})
    assert config.preprocessing == Preprocessing("paper", 40)
    assert config.pair_cache.kind == "disk" and config.pair_cache.folder.parts == ("runs", "cache")
    assert config.slicing == Slicing("sagittal", None, pooled=True)
    assert TrainConfig.of({"model": "matr"}).slicing == Slicing("axial", 120, pooled=False)
    with pytest.raises(ValueError, match="disk, memory, none"):
        Cache("tape")


class TestContinuing:
    # Everything else would make it another run.
    MAY_CHANGE = {
        *("data", "labels", "epochs", "workers", "cache", "val_every", "gpus"),
        *("compile", "checkpoint_activations"),
    }
    OTHER = {bool: True, int: 7, float: 0.25, str: "other", tuple: (7,), type(None): "other"}

    @pytest.mark.parametrize("name", [field.name for field in fields(TrainConfig)])
    def test_what_may_change(self, tmp_path, name):
        config = TrainConfig()
        given = {name: self.OTHER[type(getattr(config, name))]}
        folder = tmp_path / "moved"
        if name in self.MAY_CHANGE:
            continued = config.continued(given, folder)
            assert getattr(continued, name) == given[name]
            assert continued.run_folder == folder
        else:
            with pytest.raises(InputError) as refusal:
                config.continued(given, folder)
            assert refusal.value.source == flag(name)
        same = {name: getattr(config, name)}
        if "dc2fusion" in SETTINGS[name].models:
            assert config.continued(same, folder).run_folder == folder

    def test_a_list_from_the_command_line_is_compared_as_what_it_is(self, tmp_path):
        config = TrainConfig.of({"switched": ["R4"], "depths": [2, 2]})
        config.continued({"switched": ["R4"], "depths": [2, 2]}, tmp_path / "run")
        with pytest.raises(InputError, match="--depths"):
            config.continued({"depths": [2, 2, 2]}, tmp_path / "run")

    def test_vgg_may_have_moved_but_not_come_or_gone(self, tmp_path):
        trained_with = TrainConfig.of({"model": "dilran", "vgg": "/old/vgg.pth"})
        moved = trained_with.continued({"vgg": "/new/vgg.pth"}, tmp_path / "run")
        assert moved.vgg == "/new/vgg.pth"
        with pytest.raises(InputError, match="--vgg"):
            TrainConfig.of({"model": "dilran"}).continued({"vgg": "/new.pth"}, tmp_path / "run")
