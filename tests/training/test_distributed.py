"""Devices and processes."""

import pytest
import torch

from training.config import TrainConfig
from training.distributed import choose_devices, launch
from training.trainer import train
from utils.errors import InputError


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
        launch(train, [torch.device("cpu")] * 2, config, (None, None), broken)
    assert ended.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "last.pt" in errors[0]
