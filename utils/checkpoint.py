"""Checkpoints: written in one step, read without running code, enough to go on training or to fuse.

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

import json
import os
import pickle
import platform
import random
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import monai
import numpy as np
import torch
from torch import nn

from models import build_model
from models.released import is_released, load_released
from utils.cli import InputError, notice
from utils.config import TrainConfig
from utils.files import replacing

FORMAT = "dc2fusion-1"
LAST, BEST = "last.pt", "best.pt"
_SAVED_KEYS = {"config", "model", "optimizer", "epoch", "step", "best", "rng", "versions"}


@dataclass(frozen=True)
class TrainedModel:
    """A network ready to fuse with, and how its inputs are to be prepared.

    Attributes:
        model: in eval mode, on the CPU.
        recipe: name of the preprocessing recipe.
        size: voxels a side that it was trained on.
        source: the file that it came from.
        description: one line for the user.
        name: of its model, see `models.build_model`.
    """

    model: nn.Module
    recipe: str
    size: int
    source: Path
    description: str
    name: str = "dc2fusion"


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
    with replacing(path, "free space, then --resume") as part:
        try:
            torch.save({"format": FORMAT, "versions": versions, **content}, part)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(str(error)) from error


def keep_as(source: Path, target: Path) -> None:
    """Make `target` the same checkpoint as `source`, in one step and where possible without a copy."""
    with replacing(target, "free space, then --resume") as part:
        try:
            os.link(source, part)  # `save` never writes into a file that is there, so the link stays as it is
        except OSError:
            shutil.copyfile(source, part)


def read(path: Path) -> dict:
    """Read a checkpoint file, own or released, running no code from it.

    Raises:
        InputError: missing, truncated, not a checkpoint, or a pickle with anything but tensors and plain
            values in it.
    """
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
        raise InputError(path, "truncated or not a checkpoint", "copy or download it again") from error
    if not isinstance(content, dict):
        raise InputError(path, f"holds a {type(content).__name__}, no state dict", "give a checkpoint")
    return content


def _first_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(1)


def locate(path: Path) -> Path:
    """The checkpoint file that a path means: itself, or the best (else the last) one of a run folder.

    Raises:
        InputError: a folder without a checkpoint.
    """
    if not path.is_dir():
        return path
    for name in (BEST, LAST):
        if (path / name).is_file():
            return path / name
    raise InputError(path, f"no {BEST} or {LAST} in this folder", "give a run folder of train_diff.py")


def newest_run(root: Path) -> Path:
    """The run folder of DC2Fusion below `root` with the newest checkpoint; says which one it is.

    Raises:
        InputError: there is none.
    """
    runs = [path.parent for path in sorted(root.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)]
    runs = [run for run in runs if _model_of(run) == "dc2fusion"]
    if not runs:
        remedy = "train first (python train_diff.py, or make demo), or give a checkpoint"
        raise InputError("--checkpoint", f"not given, and no run of DC2Fusion under {root}/", remedy)
    notice(f"no --checkpoint: using the newest run, {runs[-1]}")
    return runs[-1]


def _model_of(run: Path) -> str:
    """The model that a run folder says it is of; DC2Fusion where it does not say."""
    try:
        return json.loads((run / "config.json").read_text())["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return "dc2fusion"


def is_own(path: Path) -> bool:
    """Whether a path is a run folder or a checkpoint of this project, which knows its model."""
    if path.is_dir():
        return any((path / name).is_file() for name in (BEST, LAST, "config.json"))
    try:
        return "format" in read(path)
    except InputError:
        return False


def read_own(path: Path) -> tuple[dict, TrainConfig]:
    """Read a checkpoint of this project with its configuration.

    Raises:
        InputError: as `read`, or a checkpoint that is not this project's.
    """
    content = read(path)
    if content.get("format") != FORMAT or not _SAVED_KEYS <= content.keys():
        raise InputError(path, "not a checkpoint of this project", "give one that train_diff.py wrote")
    try:
        return content, TrainConfig.from_dict(content["config"])
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(path, f"{error}", "use the version of the code that wrote it") from error


def load_model(path: Path, variant: str | None = None, size: int = 128) -> TrainedModel:
    """Load a network to fuse with.

    Args:
        path: a run folder, an own checkpoint or a checkpoint of the released code.
        variant: must agree with an own checkpoint of DC2Fusion; for a released one "released" is taken if None.
        size: what a released checkpoint was trained on; an own one knows.

    Raises:
        InputError: as `read`; another architecture; a variant that the checkpoint was not trained as.
    """
    path = locate(path)
    content = read(path)
    if is_released(content):
        return _load_released(path, content, variant or "released", size)
    if "format" not in content:
        remedy = "give a DC2Fusion checkpoint, or name another method's weights by --weights METHOD=FILE"
        raise InputError(path, "its tensors are not DC2Fusion's", remedy)
    content, config = read_own(path)
    if variant and config.regime.slicewise:
        raise InputError("--variant", f"{path} is {config.model}, which has none", "leave the flag out")
    if variant not in (None, config.variant):
        raise InputError("--variant", f"{path} was trained as {config.variant}, not {variant}", "leave the flag out")
    model = restore_model(path, content, config)
    form = f"{config.variant} variant, E={config.embed_dim}"
    if config.regime.slicewise:
        form = f"on {config.plane} slices"
    description = f"{path}: {config.model}, {form}, epoch {content['epoch']}"
    return TrainedModel(model.eval(), config.recipe, config.size, path, description, config.model)


def restore_model(path: Path, content: dict, config: TrainConfig) -> nn.Module:
    """The network of an own checkpoint, every tensor of it used.

    Raises:
        InputError: the tensors do not fit the configuration.
    """
    try:
        model = build_model(config.model, **config.model_options())
        model.load_state_dict(content["model"])
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        problem = "its tensors do not fit its configuration: " + " ".join(str(error).split())[:300]
        raise InputError(path, problem, "give an unchanged checkpoint") from error
    return model


def _load_released(path: Path, state: dict, variant: str, size: int) -> TrainedModel:
    weight = state["swin.patch_embed.proj.weight"]
    recipe = "released" if variant == "released" else "paper"
    try:
        model = build_model("dc2fusion", embed_dim=int(weight.shape[0]), variant=variant)
        skipped = load_released(model, state)
    except (ValueError, AttributeError) as error:
        raise InputError(path, str(error), "give a checkpoint of the released DC2Fusion") from error
    description = (
        f"{path}: weights of the released code as {variant} variant, E={weight.shape[0]}; {len(skipped)} tensors "
        f"skipped that it never uses (cross_attn.proj, concat_back_dim.0)"
    )
    return TrainedModel(model.eval(), recipe, size, path, description)


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
