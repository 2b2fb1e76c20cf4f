"""Devices and processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import workers
from training.config import TrainConfig
from training.devices.distributed import Process, choose_devices, device_of, launch
from training.hyperparameters import PUBLISHED
from training.trainer import train
from utils.errors import InputError
from utils.ranks import Place

ROOT = Path(__file__).resolve().parents[3]
TWO = [torch.device("cpu")] * 2


def test_without_a_gpu_the_cpu_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_devices((0, 3)) == [torch.device("cpu")]


def test_devices_by_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_devices((2, 0)) == [torch.device("cuda", 2), torch.device("cuda", 0)]
    with pytest.raises(InputError, match="--gpus: no device 4; choose from 0, 1, 2, 3"):
        choose_devices((0, 4))


def test_an_error_in_several_processes_is_said_once_with_status_2(capfd, tmp_path):
    config = TrainConfig(embed_dim=24, out=str(tmp_path))
    broken = {"model": {}}
    with pytest.raises(SystemExit) as ended:
        launch(train, TWO, config, (None, None), broken)
    assert ended.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "last.pt" in errors[0]


def test_a_process_that_a_launcher_started_takes_the_device_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(Place(5, 1, 6)) == torch.device("cuda", 1)
    with pytest.raises(InputError, match="--nproc-per-node: .* there are 2; give 2 or fewer"):
        device_of(Place(2, 2, 3))


def test_a_process_that_is_killed_ends_the_others_and_is_named(quick_processes):
    with pytest.raises(InputError, match=r"process 2 of 2: was killed \(SIGKILL\)"):
        launch(workers.kill_itself, TWO)


def test_processes_share_items_and_means(tmp_path, quick_processes):
    launch(workers.share, TWO, list("abcde"), tmp_path / "shares.json")
    shares, mean = json.loads((tmp_path / "shares.json").read_text())
    assert shares == [["a", "c", "e"], ["b", "d"]]
    assert mean == [0.5, float("inf")]


def test_gradients_of_two_processes_are_those_of_one_with_the_whole_batch(
    tmp_path, quick_processes
):
    """Of every model, in float64, BatchNorm normalising by both processes' batches."""
    models = list(PUBLISHED)
    workers.write_gradients(Process(0, 1, TWO[0]), models, tmp_path / "one.pt")
    launch(workers.write_gradients, TWO, models, tmp_path / "two.pt")
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for model in models:
        keys = [key for key in one if key.startswith(f"{model}: ")]
        largest = max(one[key].abs().max().item() for key in keys)
        for key in keys:
            torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-9 * largest, msg=key)


def test_the_first_step_sums_as_all_others(tmp_path, quick_processes):
    """Or a resumed run would differ; two processes cannot show it, a + b being b + a."""
    launch(workers.repeat_gradients, [TWO[0]] * 3, tmp_path / "steps.pt")
    first, second, third = torch.load(tmp_path / "steps.pt")
    for one, two, three in zip(first, second, third, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK: is set, and LOCAL_RANK is not"),
        ({"RANK": "3", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK: 3 of 2"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK: 'x' is no whole number"),
    ],
)
def test_a_launcher_that_says_too_little_is_refused(given, problem):
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} if "LOCAL_RANK" in given else {}
    command = [sys.executable, "train_diff.py", "--epochs", "1"]
    environment = os.environ | given | meeting
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {problem}") and ran.stderr.count("\n") == 1
