"""What tests run in processes of their own: functions that a fresh process can import."""

import json
import math
import os
import signal
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from training.build import build_loss, build_network
from training.config import TrainConfig
from training.devices.batchnorm import synchronise
from training.devices.distributed import Process
from training.hyperparameters import FUSION, PUBLISHED, REGISTRATION, SLICES
from training.trainer import Loss, build_trainer


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


def kill_itself(process: Process) -> None:
    """The second process dies where the first one waits for it."""
    if process.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    process.gather([0])


def share(process: Process, items: list, report: Path) -> None:
    """Write which items each process gets, and what the group says of them together."""
    shares = process.gather([list(process.share_of(items))])
    mean = process.mean([float(process.rank), math.inf if process.rank else 0.0])
    if process.is_main:
        report.write_text(json.dumps([shares, mean]))


def write_gradients(process: Process, models: list[str], report: Path) -> None:
    """Write what each model's gradients and buffers are for a batch that the processes share."""
    found = {}
    for model in models:
        network, loss = small_case(model)
        if process.world_size > 1:
            synchronise(network)
        runner = process.wrap(loss, some_unused=True)
        images = [process.share_of(image) for image in small_batch(model)]
        runner(*images)[0].backward()
        for key, value in network.named_buffers():
            found[f"{model}: {key}"] = value.clone()
        for key, parameter in network.named_parameters():
            if parameter.grad is not None:
                found[f"{model}: {key}"] = parameter.grad
    if process.is_main:
        torch.save(found, report)


def repeat_gradients(process: Process, report: Path) -> None:
    """Write the gradients of three equal steps of a network that uses its last layer first."""
    torch.manual_seed(process.rank)
    layers = [torch.nn.Linear(40, 40) for _ in range(4)]
    network = process.wrap(torch.nn.Sequential(*layers[::-1]))
    network.module.register_module("first", layers[-1])
    items, steps = torch.rand(8, 40), []
    for _ in range(3):
        network.zero_grad()
        network(items).square().mean().backward()
        steps.append([parameter.grad.clone() for parameter in network.parameters()])
    if process.is_main:
        torch.save(steps, report)


def small_case(model: str) -> tuple[torch.nn.Module, Loss]:
    """A small network in float64 and a mean over a batch; only its BatchNorm is in training mode.

    What else training mode does is drawn, by each process for itself. DC2Fusion has its objective;
    those of the 2-D methods go by float32 and, SwinFuse's, by the length of the batch.
    """
    given = {"model": model}
    if model == "dc2fusion":
        given |= {"embed_dim": 24, "depths": (1, 1), "init": "default"}
    if PUBLISHED[model].kind == REGISTRATION:
        given |= {"network": "tiny", "size": 32}
    config = TrainConfig.of(given)
    torch.manual_seed(0)
    network = build_network(config).double().eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    objective = mean_square if config.kind == SLICES else build_loss(config)
    return network, Loss(network, objective, config.kind)


def mean_square(method: torch.nn.Module, *images: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """A mean over the pixels of a batch, of what a method makes of it."""
    made = method.reconstruct(*images) if len(images) == 1 else method(*images)
    return (made - images[0]).square().mean(), {}


def small_batch(model: str) -> list[torch.Tensor]:
    """Four items, which two and four processes share evenly."""
    shapes = {FUSION: (16,) * 3, SLICES: (32,) * 2, REGISTRATION: (32,) * 3}
    shape = 4, 1, *shapes[PUBLISHED[model].kind]
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    return images[: len(PUBLISHED[model].inputs)]
