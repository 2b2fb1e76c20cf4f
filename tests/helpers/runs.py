"""What tests of training share: flags that make a run quick, and a look into what it left."""

import csv
from pathlib import Path

import torch

from training import checkpoint

QUICK = ("--size", 36, "--embed-dim", 24, "--lr", "1e-3", "--workers", 0, "--cache", "memory")
QUICK_2D = ("--size", 16, "--batch-size", 8, "--workers", 0, "--cache", "memory")


def table(path: Path) -> list[dict]:
    """The rows of a table that a run wrote."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights(path: Path) -> torch.Tensor:
    """All weights and buffers of a checkpoint, one after the other."""
    return torch.cat([w.double().flatten() for w in checkpoint.read(path)["model"].values()])
