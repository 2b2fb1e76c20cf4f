"""Checkpoints: written in one step, read without running code, enough to train on or to fuse.

An own checkpoint is a dict of tensors and plain values:
    format      FORMAT
    config      `TrainConfig.to_dict()`
    model       state dict of the network; under --ema, of the running mean
    trained     under --ema, state dict of the network that goes on being trained
    optimizer   state dict of the optimiser; of several a list
    epoch       epochs that are done; the learning rate follows from it
    step        training steps that are done
    best        the best score so far, in best.pt its own
    rng         states of the random number generators, of each process
    versions    of torch, monai and Python
"""

import math
import pickle
import platform
import random
import warnings
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.build import build_network
from training.config import TrainConfig
from training.hyperparameters import SLICES
from utils.archives import check_archive
from utils.errors import InputError, notice
from utils.files import check_readable, replacing

FORMAT = "dc2fusion-1"
LAST, BEST = "last.pt", "best.pt"
_SAVED_KEYS = {"config", "model", "optimizer", "epoch", "step", "best", "rng", "versions"}
_UNCHANGED = "give an unchanged checkpoint"
_MISFIT = "its tensors do not fit its configuration"


def full_disk_remedy(folder: Path) -> str:
    """What to do about a run that could not write: go on, if an epoch was finished."""
    if (folder / LAST).exists():
        return "free space, then --resume it"
    return "free space and start again, no epoch was finished"


def save(path: Path, content: dict) -> None:
    """Write a checkpoint (`content` has every key of the list above but format and versions).

    Raises:
        InputError: the file cannot be written.
    """
    versions = {
        "torch": str(torch.__version__),
        "monai": version("monai"),
        "python": platform.python_version(),
    }
    with replacing(path, full_disk_remedy(path.parent)) as part:
        try:
            torch.save({"format": FORMAT, "versions": versions, **content}, part)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(str(error)) from error


def read(path: Path) -> dict:
    """Read a checkpoint file, own or released, running no code from it.

    Raises:
        InputError: missing, truncated, damaged, not a checkpoint, a pickle with anything but
            tensors and plain values in it, or one that unpacks to far more than it is.
    """
    check_readable(path)
    if not path.is_file():
        raise InputError(path, "no such checkpoint", "give a run folder, a .pt or a released .pth")
    check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle's protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or _first_byte(path) == pickle.PROTO:
            problem = "holds more than tensors and plain values, which could run code when loaded"
            raise InputError(path, problem, "give a state dict saved by torch.save") from error
        raise InputError(path, "not a checkpoint", "give a .pt or .pth file") from error
    except Exception as error:  # a file that only looks like a pickle raises nearly any kind
        problem = "truncated or not a checkpoint"
        raise InputError(path, problem, "copy or download it again") from error
    if not isinstance(content, dict):
        problem = f"holds a {type(content).__name__}, no state dict"
        raise InputError(path, problem, "give a checkpoint")
    return content


def _first_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(1)


def read_own(path: Path) -> tuple[dict, TrainConfig]:
    """Read a checkpoint of this project with its configuration.

    Raises:
        InputError: as `read`, or a checkpoint that is not this project's or holds impossible
            values.
    """
    content = read(path)
    if content.get("format") != FORMAT or not _SAVED_KEYS <= content.keys():
        problem = "not a checkpoint of this project"
        raise InputError(path, problem, "give one that train_diff.py wrote")
    try:
        config = TrainConfig.from_dict(content["config"])
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(path, f"{error}", "use the version of the code that wrote it") from error
    check_size(path, config, bytes_each=4)
    for key, known in (("epoch", int), ("step", int), ("best", (int, float))):
        value = content[key]
        if isinstance(value, int) and abs(value) >= 2**63:  # Python refuses to print the longest
            raise InputError(path, f"its {key} is a number beyond any count", _UNCHANGED)
        possible = isinstance(value, known) and not isinstance(value, bool)
        if not possible or math.isnan(value) or (key != "best" and value < 0):
            raise InputError(path, f"its {key} is {value!r:.40}", _UNCHANGED)
    return content, config


def check_size(path: Path, config: TrainConfig, bytes_each: int) -> None:
    """Refuse a configuration of a network that a file is too small to hold.

    So that a small file cannot ask for the memory of a huge network.

    Args:
        bytes_each: of a number in the file.

    Raises:
        InputError: it is.
    """
    if config.kind == SLICES:  # networks of one size
        return
    least = 0
    for level, depth in enumerate(config.depths):
        least += depth * 8 * (config.embed_dim * 2**level) ** 2  # a block's MLP alone
    if path.stat().st_size < bytes_each * least:
        problem = (
            f"is too small for a network of width {config.embed_dim} and {config.depths} blocks"
        )
        raise InputError(path, problem, _UNCHANGED)


def restore_model(path: Path, content: dict, config: TrainConfig) -> nn.Module:
    """The network of an own checkpoint, every tensor of it used.

    Raises:
        InputError: the tensors do not fit the configuration.
    """
    try:
        model = build_network(config)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(path, f"{_MISFIT}: {reason}", _UNCHANGED) from error
    load_tensors(path, content["model"], model)
    return model


def load_tensors(path: Path, given: object, model: nn.Module) -> None:
    """Give a network the tensors of an own checkpoint, all of them and no others.

    Args:
        given: state dict out of it.

    Raises:
        InputError: they do not fit the network.
    """
    wanted = model.state_dict()
    if not isinstance(given, dict):
        raise InputError(path, f"{_MISFIT}: there are none", _UNCHANGED)
    for name in (*wanted, *(name for name in given if name not in wanted)):
        fault = misfit(given.get(name), wanted.get(name))
        if fault:
            raise InputError(path, f"{_MISFIT}: {name} {fault}", _UNCHANGED)
    model.load_state_dict(given)


def misfit(given: object, wanted: Tensor | None, dtype: torch.dtype | None = None) -> str | None:
    """What keeps what a file holds from being a tensor of a network; None where nothing does.

    Args:
        dtype: that it must have, if not that of `wanted`.
    """
    if given is None:
        return "is missing"
    if wanted is None:
        return "is of another network"
    if not isinstance(given, Tensor):
        return f"is a {type(given).__name__}, no tensor"
    if given.shape != wanted.shape:
        return f"has shape {tuple(given.shape)}, its configuration asks for {tuple(wanted.shape)}"
    dtype = dtype or wanted.dtype
    if given.dtype != dtype:
        return f"holds {given.dtype}, not {dtype}"
    if given.layout != torch.strided or given.device.type != "cpu":
        return "holds no plain values"
    return None


def complete_best(folder: Path, content: dict) -> None:
    """Write `best.pt` where a run was killed before it could.

    Args:
        content: of the checkpoint that the run goes on from.
    """
    path = folder / BEST
    if content["best"] == -math.inf:
        return
    try:
        if read_own(path)[0]["best"] >= content["best"]:
            return
    except InputError as error:
        if path.exists():
            notice(f"{error}; the last epoch takes its place until a better one")
    # Before the kill, `last.pt` was written first: the score that it knows is its own.
    save(path, {key: content[key] for key in content.keys() - {"format", "versions"}})


def optimizer_state(optimizers: Sequence[Optimizer]) -> dict | list[dict]:
    """What a checkpoint keeps of the optimisers: of a single one its state, as ever."""
    states = [optimizer.state_dict() for optimizer in optimizers]
    return states if len(states) > 1 else states[0]


def restore_optimizers(path: Path, state: object, optimizers: Sequence[Optimizer]) -> None:
    """Give new optimisers what `optimizer_state` kept, see `restore_optimizer`.

    Raises:
        InputError: it is of other optimisers or of another network.
    """
    states = state if isinstance(state, list) else [state]
    if len(states) != len(optimizers):
        problem = f"holds the state of {len(states)} optimisers and not of {len(optimizers)}"
        raise InputError(path, problem, _UNCHANGED)
    for one, optimizer in zip(states, optimizers, strict=True):
        restore_optimizer(path, one, optimizer)


def restore_optimizer(path: Path, state: object, optimizer: Optimizer) -> None:
    """Give a new optimiser the moments that a checkpoint holds, and nothing else of it.

    PyTorch's own loading compares no shapes, and the fused kernels write beyond what is too short.

    Args:
        state: of a checkpoint, what `optimizer.state_dict()` was.

    Raises:
        InputError: it is of another optimiser or network.
    """
    own = optimizer.state_dict()
    try:
        known = [g["params"] for g in state["param_groups"]] == [
            group["params"] for group in own["param_groups"]
        ]
        moments = {index: dict(given) for index, given in state["state"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = "its state of the optimiser cannot be understood"
        raise InputError(path, problem, _UNCHANGED) from error
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not known or not moments.keys() <= set(range(len(parameters))):
        raise InputError(path, "its state of the optimiser is of other tensors", _UNCHANGED)
    expected = _moments_of_a_number(optimizer)
    for index, given in moments.items():
        for name in expected | given:
            # One for each number of the parameter, or one for all.
            wanted = expected.get(name)
            if wanted is not None and wanted.ndim:
                wanted = parameters[index]
            fault = misfit(given.get(name), wanted)
            if fault:
                problem = f"its state of the optimiser: {name} of tensor {index} {fault}"
                raise InputError(path, problem, _UNCHANGED)
            # In memory of its own: what was read may be a view, or share another one's.
            given[name] = torch.empty_like(wanted, device="cpu").copy_(given[name])
    optimizer.load_state_dict({"state": moments, "param_groups": own["param_groups"]})


def _moments_of_a_number(optimizer: Optimizer) -> dict[str, Tensor]:
    """What such an optimiser keeps of a parameter of one number, shape (1, 1)."""
    number = nn.Parameter(torch.zeros(1, 1))
    number.grad = torch.zeros(1, 1)
    alike = type(optimizer)([number], **optimizer.defaults)
    alike.step()
    return alike.state[number]


def rng_states() -> dict:
    """The states of all global random number generators, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(path: Path, states: dict) -> None:
    """Set what `rng_states` returned; CUDA's only where as many devices are there.

    Raises:
        InputError: it is something else.
    """
    try:
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, position, has_gauss, cached = states["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        torch.set_rng_state(states["torch"])
        if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(states["cuda"])
    except Exception as error:  # the generators raise each its own kinds
        problem = "its states of the random generators cannot be used"
        raise InputError(path, problem, _UNCHANGED) from error
