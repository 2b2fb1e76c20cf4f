"""The flags: made from the settings, quick to print, the same in the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from losses import OBJECTIVES
from losses.registration import objective
from models import dc2fusion
from models.baselines.slicewise import PLANES
from models.initialisation import INITIALISATIONS
from models.ops import stream_maps
from models.registration import transmorph
from models.variants import DIFFERENCES, VARIANTS
from training import hyperparameters
from training.config import (
    FROM_WEIGHTS,
    MOST_LEVELS,
    PATCH,
    SETTINGS,
    WITHOUT_GATE,
    TrainConfig,
    flag,
)
from training.flags import GROUPS, build_parser, table
from training.validation import BEST_BY

ROOT = Path(__file__).resolve().parents[2]


def parse(*words: str) -> dict:
    return vars(build_parser("description").parse_args(words))


def test_a_flag_that_is_not_given_leaves_no_value():
    assert parse() == {}


def test_the_published_command_and_others_are_read_as_before():
    assert parse("--alpha1", "2", "--gamma2", "0.5") == {"alpha1": 2.0, "gamma2": 0.5}
    assert parse("--gpus", "0,1,2,3") == {"gpus": (0, 1, 2, 3)}
    assert parse("--switch", "R1", "R4", "--no-amp") == {"switched": ["R1", "R4"], "amp": False}
    assert parse("--depths", "2", "2") == {"depths": [2, 2]}
    assert parse("--rec", "acdyn", "--run", "1") == {"recording": "acdyn", "run": "1"}
    assert parse("--resume", "result/adni") == {"resume": "result/adni"}


def test_every_default_is_one_that_its_flag_takes():
    for name, setting in SETTINGS.items():
        value = getattr(TrainConfig, name)
        if setting.options.get("choices") and value is not None:
            assert value in setting.options["choices"], name
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert parse(flag(name), str(value)) == {name: value}


def test_choices_are_those_of_the_code_that_takes_them():
    """Written out in the configuration, because importing them takes seconds."""
    code = {
        "variant": VARIANTS,
        "recipe": VARIANTS,
        "plane": PLANES,
        "best_by": BEST_BY,
        "network": (*hyperparameters.NETWORKS, *hyperparameters.REGISTRATION_NETWORKS),
        "similarity": (*objective.SIMILARITIES, objective.NO_SIMILARITY),
        "regulariser": objective.REGULARISERS,
        "init": (*INITIALISATIONS, FROM_WEIGHTS),
    }
    for name, known in code.items():
        assert set(SETTINGS[name].options["choices"]) == set(known), name
    named = {TrainConfig.objective, *re.findall(r"`(.+?)`", SETTINGS["objective"].help)}
    assert named == set(OBJECTIVES)


def test_networks_by_name_are_those_of_the_models():
    assert hyperparameters.NETWORKS == dc2fusion.NETWORKS
    own = hyperparameters.REGISTRATION_NETWORKS
    assert own.keys() == transmorph.NETWORKS.keys()
    for name, options in transmorph.NETWORKS.items():
        assert own[name] == {key: options[key] for key in ("embed_dim", "depths")}
    assert len(dc2fusion.HEADS) == MOST_LEVELS and PATCH == stream_maps.PATCH
    assert DIFFERENCES[WITHOUT_GATE] == "gated" and VARIANTS["paper"].gated


def test_settings_stand_in_the_order_of_their_groups():
    groups = [setting.group for setting in SETTINGS.values()]
    assert list(dict.fromkeys(groups)) == list(GROUPS)
    assert groups == sorted(groups, key=list(GROUPS).index)


def test_help_says_every_default(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "10 % by seed",
        "(3407)",
        "dc2fusion: torch.compile (off)",
        "matr 10 64 0.001",
        "transmorph 500 1 0.0001",
    ):
        assert part in text


def test_the_readme_has_the_table():
    assert table() in (ROOT / "README.md").read_text("utf-8")


def test_help_imports_nothing_heavy():
    code = "import sys, train_diff; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ended.stdout.split())
    assert not loaded & {"torch", "numpy", "monai", "nibabel", "matplotlib"}
    assert "training.config" in loaded
