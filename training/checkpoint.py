"""Checkpoints: written in one step, read without running code, enough to train on or to fuse.

An own checkpoint is a dict of tensors and plain values:
    format      FORMAT
    config      `TrainConfig.to_dict()`
    model       state dict of the network
    optimizer   state dict of the optimiser
    epoch       epochs that are done; the learning rate follows from it
    step        training steps that are done
    best        the best score so far
    rng         states of the random number generators, of each process
    versions    of torch, monai and Python
"""

import os
import pickle
import platform
import random
import shutil
import zipfile
from pathlib import Path

import monai
import numpy as np
import torch
from torch import nn

from training.build import build_network
from training.config import TrainConfig
from utils.errors import InputError
from utils.files import check_readable, replacing

FORMAT = "dc2fusion-1"
LAST, BEST = "last.pt", "best.pt"
_SAVED_KEYS = {"config", "model", "optimizer", "epoch", "step", "best", "rng", "versions"}


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
        "monai": str(monai.__version__),
        "python": platform.python_version(),
    }
    with replacing(path, full_disk_remedy(path.parent)) as part:
        try:
            torch.save({"format": FORMAT, "versions": versions, **content}, part)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(str(error)) from error


def keep_as(source: Path, target: Path) -> None:
    """Make `target` the same checkpoint as `source`, in one step and if possible without a copy."""
    with replacing(target, full_disk_remedy(target.parent)) as part:
        try:
            os.link(source, part)  # `save` replaces files, so what is linked stays as it is
        except OSError:
            shutil.copyfile(source, part)


def read(path: Path) -> dict:
    """Read a checkpoint file, own or released, running no code from it.

    Raises:
        InputError: missing, truncated, not a checkpoint, or a pickle with anything but tensors and
            plain values in it.
    """
    check_readable(path)
    if not path.is_file():
        raise InputError(path, "no such checkpoint", "give a run folder, a .pt or a released .pth")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or _first_byte(path) == pickle.PROTO:
            problem = "holds more than tensors and plain values, which could run code when loaded"
            raise InputError(path, problem, "give a state dict saved by torch.save") from error
        raise InputError(path, "not a checkpoint", "give a .pt or .pth file") from error
    except (EOFError, RuntimeError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
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
        InputError: as `read`, or a checkpoint that is not this project's.
    """
    content = read(path)
    if content.get("format") != FORMAT or not _SAVED_KEYS <= content.keys():
        problem = "not a checkpoint of this project"
        raise InputError(path, problem, "give one that train_diff.py wrote")
    try:
        return content, TrainConfig.from_dict(content["config"])
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(path, f"{error}", "use the version of the code that wrote it") from error


def restore_model(path: Path, content: dict, config: TrainConfig) -> nn.Module:
    """The network of an own checkpoint, every tensor of it used.

    Raises:
        InputError: the tensors do not fit the configuration.
    """
    try:
        model = build_network(config)
        model.load_state_dict(content["model"])
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        problem = "its tensors do not fit its configuration: " + " ".join(str(error).split())[:300]
        raise InputError(path, problem, "give an unchanged checkpoint") from error
    return model


def rng_states() -> dict:
    """The states of all global random number generators, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(states: dict) -> None:
    """Set what `rng_states` returned; CUDA's only where as many devices are there."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
