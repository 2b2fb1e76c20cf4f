"""What tests run in processes of their own: functions that a fresh process can import."""

import json
import math
from pathlib import Path

from training.config import TrainConfig
from training.distributed import Process
from training.trainer import build_trainer


def train_and_compare(process: Process, config: TrainConfig, datasets: tuple, report: Path) -> None:
    """Train, and write every process's checksum of weights and buffers."""
    trainer = build_trainer(process, config, datasets)
    trainer.fit()
    own = [
        sum(t.double().abs().sum().item() for t in part)
        for part in (trainer.model.parameters(), trainer.model.buffers())
    ]
    checksums = process.gather([own])
    if process.is_main:
        report.write_text(json.dumps(checksums))


def diverge_in_the_second(process: Process, config: TrainConfig, datasets: tuple) -> None:
    """Train with a network that turns NaN in the second process only."""
    trainer = build_trainer(process, config, datasets)
    original = trainer.loss.objective

    def objective(fused, mri, pet):
        loss, terms = original(fused, mri, pet)
        return (loss * math.nan, terms) if process.rank == 1 else (loss, terms)

    trainer.loss.objective = objective
    trainer.fit()
