"""What tests of training share: flags that make a run quick, runs, and a look into them."""

import csv
from pathlib import Path

import torch

from training import checkpoint
from training.build import build_network
from training.config import TrainConfig
from training.weights import to_stored, write

SMALL_NETWORK = {"embed_dim": 24, "depths": (1, 1)}
QUICK = ("--size", 36, "--embed-dim", 24, "--depths", 1, 1, "--lr", "1e-3")
QUICK += ("--workers", 0, "--cache", "memory")
QUICK_2D = ("--size", 16, "--batch-size", 8, "--workers", 0, "--cache", "memory")


def table(path: Path) -> list[dict]:
    """The rows of a table that a run wrote."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights(path: Path) -> torch.Tensor:
    """All weights and buffers of a checkpoint, one after the other."""
    return torch.cat([w.double().flatten() for w in checkpoint.read(path)["model"].values()])


RELEASED = {"variant": "released", "recipe": "released", "switched": ("R4",)}


def save_untrained(path: Path, **settings) -> torch.nn.Module:
    """Write an own checkpoint of an untrained small network; returns the network."""
    torch.manual_seed(0)
    config = TrainConfig(**SMALL_NETWORK | {"size": 40} | (settings or RELEASED))
    model = build_network(config)
    _save(path, config, model, epoch=3, step=30)
    return model


def _save(path: Path, config: TrainConfig, model: torch.nn.Module, epoch: int, step: int) -> None:
    """Write a checkpoint of a network, with an optimiser that has not begun."""
    content = {
        "config": config.to_dict(),
        "model": model.state_dict(),
        "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        "epoch": epoch,
        "step": step,
        "best": 0.5,
        "rng": checkpoint.rng_states(),
    }
    checkpoint.save(path, content)


def save_shifting(path: Path, shift: tuple[float, float, float], size: int = 32) -> None:
    """Write a checkpoint of a TransMorph that moves every voxel by so many of its own."""
    torch.manual_seed(0)
    config = TrainConfig.of({"model": "transmorph", "network": "tiny", "size": size})
    model = build_network(config)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data[:] = torch.tensor(shift)
    _save(path, config, model, epoch=1, step=1)


def save_small_weights(path: Path, refine: int = 0, **settings) -> torch.nn.Module:
    """Write weights of an untrained small network for any balance; returns the network.

    Args:
        refine: steps over the voxels that its output is to have.
    """
    torch.manual_seed(0)
    config = TrainConfig(**SMALL_NETWORK | {"size": 40, "balance": "any"} | settings)
    model = build_network(config)
    for place in model.balance.places:  # which has no effect at first
        torch.nn.init.normal_(place.weight, std=0.1)
    about = {"config": config.to_dict(), "balance": 0.4, "date": "2026-01-01"}
    write(path, to_stored(model.state_dict()), about, {"refine": refine})
    return model
