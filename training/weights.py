"""The weights that come with the repository: a safetensors file with a JSON beside it.

    dc2fusion.safetensors   16-bit tensors, statistics in 32; in its header FORMAT and what is known
                            about them: configuration, command, commit and date of the training,
                            the balance
    dc2fusion.json          the same, SHA-256 of the file, and scores that it must give on a pair
                            that the code makes

Reading runs no code. The hash is checked first, so that a damaged file is never half understood.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from training.build import build_network
from training.checkpoint import check_size, misfit
from training.config import WEIGHTS, TrainConfig, flag, refuse_foreign
from training.hyperparameters import NETWORKS
from utils.errors import InputError
from utils.files import replacing
from utils.text import read_text

FORMAT = "dc2fusion-weights-1"
SUFFIX = ".safetensors"
STATISTICS = ("running_mean", "running_var")  # of BatchNorm: few, and of any size
SHIPPED = Path(__file__).resolve().parents[1] / "weights" / f"dc2fusion{SUFFIX}"
REMEDY = "restore it (git checkout weights) or name a run by --checkpoint"
# What a training that starts from the weights has in common with theirs: it must, it may.
NETWORK = ("embed_dim", "depths", "head", "variant", "switched", "fusion", "balance")
LEARNT_FOR = ("objective", "recipe")


@dataclass(frozen=True)
class Weights:
    """A file of weights, read and checked against its JSON.

    Attributes:
        path: of the file.
        config: of the training.
        tensors: state dict of the network as it is in the file, 16-bit.
        record: content of the JSON.
    """

    path: Path
    config: TrainConfig
    tensors: dict[str, Tensor]
    record: dict

    @property
    def balance(self) -> float | None:
        """The share of the MRI by default; None for a network of one balance."""
        return self.record["about"]["balance"]

    @property
    def refine(self) -> int:
        """Steps over the voxels that the network's output is to have."""
        return self.record.get("refine", 0)

    def load_into(self, model: nn.Module) -> nn.Module:
        """Give a network these weights, in its own precision; returns it.

        Raises:
            InputError: a tensor is missing, unknown, or of another shape or type.
        """
        wanted = model.state_dict()
        for name in wanted.keys() | self.tensors.keys():
            dtype = stored_type(name, wanted[name]) if name in wanted else None
            problem = misfit(self.tensors.get(name), wanted.get(name), dtype)
            if problem:
                raise InputError(self.path, f"its tensor {name} {problem}", REMEDY)
        model.load_state_dict(self.tensors)
        return model

    def network(self) -> nn.Module:
        """The network, in evaluation mode.

        Raises:
            InputError: its tensors are not those of its configuration.
        """
        try:
            model = build_network(self.config)
        except ValueError as error:
            raise InputError(self.path, f"its configuration: {error}", REMEDY) from error
        return self.load_into(model).eval()


def stored_type(name: str, tensor: Tensor) -> torch.dtype:
    """16-bit for what was learnt; counters and statistics, which may exceed it, stay."""
    if name.endswith(STATISTICS) or not tensor.is_floating_point():
        return tensor.dtype
    return torch.float16


def to_stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as it is written.

    Raises:
        ValueError: a value is NaN or beyond the range of 16 bits; the message names its tensor.
    """
    stored = {}
    for name, tensor in state.items():
        stored[name] = tensor.to(stored_type(name, tensor)).contiguous()
        if tensor.is_floating_point() and not stored[name].isfinite().all():
            raise ValueError(f"{name} does not fit 16 bits: it reaches {tensor.abs().max():.4g}")
    return stored


def read(path: Path) -> Weights:
    """Read a file of weights with the JSON beside it.

    Raises:
        InputError: either is missing or damaged, or they do not belong together.
    """
    record = _read_record(path.with_suffix(".json"))
    if not path.is_file():
        raise InputError(path, "no such file", REMEDY)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record["sha256"]:
        expected = f"{path.with_suffix('.json').name} says {record['sha256'][:12]}.."
        problem = f"its SHA-256 is {digest[:12]}.., {expected}: it was changed or cut short"
        raise InputError(path, problem, REMEDY)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(path, f"no safetensors file ({error})", REMEDY) from error
    if header != _header(record["about"]):
        problem = f"its header differs from {path.with_suffix('.json').name}"
        raise InputError(path, problem, REMEDY)
    config = _config(path, header)
    check_size(path, config, bytes_each=2)
    return Weights(path, config, tensors, record)


def _read_record(path: Path) -> dict:
    if not path.is_file():
        problem = "no such file: it says what the weights beside it are"
        raise InputError(path, problem, REMEDY)
    try:
        record = json.loads(read_text(path))
        about = record["about"]
        complete = isinstance(record["sha256"], str) and isinstance(about, dict)
        steps = record.get("refine", 0)
        complete &= isinstance(steps, int) and steps >= 0
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(path, "is not the record of weights", REMEDY) from error
    if not complete or not {"config", "balance", "date"} <= about.keys():
        raise InputError(path, "is not the record of weights", REMEDY)
    return record


def _header(about: dict) -> dict[str, str]:
    """What a safetensors header can hold: texts by name."""
    header = {"format": FORMAT}
    for name, value in about.items():
        header[name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return header


def _config(path: Path, header: dict[str, str]) -> TrainConfig:
    try:
        return TrainConfig.from_dict(json.loads(header["config"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"its configuration cannot be understood ({error})"
        raise InputError(path, problem, "use the version of the code that wrote it") from error


def write(path: Path, tensors: dict[str, Tensor], about: dict, more: dict) -> dict:
    """Write a file of weights, then its JSON.

    Args:
        path: ends in `SUFFIX`.
        tensors: see `to_stored`.
        about: "config", see `TrainConfig.to_dict`, "balance", "date", and what else is to be known.
        more: what only the JSON says.

    Returns:
        the content of the JSON.

    Raises:
        InputError: a file cannot be written.
    """
    content = _ordered(save(tensors, metadata=_header(about)))
    with replacing(path) as part:
        part.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    record = {"file": path.name, "bytes": len(content), "sha256": digest, "about": about, **more}
    with replacing(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its header in order, so that equal weights give equal bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[end:]


def start_from(weights: Weights, given: dict) -> dict:
    """The values that a new training was given, completed by those of the weights it starts from.

    Raises:
        InputError: a value that makes it another network.
    """
    refuse_foreign(given.get("model", TrainConfig.model), given)
    theirs = weights.config
    named = NETWORKS[given["network"]] if "network" in given else {}
    for name, value in named.items():
        if value != getattr(theirs, name):
            _refuse("network", given["network"], theirs.network)
    for name in NETWORK:
        value = given.get(name, getattr(theirs, name))
        value = tuple(value) if isinstance(value, list) else value
        if value != getattr(theirs, name):
            _refuse(name, value, getattr(theirs, name))
    fixed = [name for name in WEIGHTS if name in given]
    if fixed and theirs.balance == "any":
        problem = "does not go with --init weights, which are for any balance"
        raise InputError(flag(fixed[0]), problem, "leave the flag out")
    return {name: getattr(theirs, name) for name in ("network", *NETWORK, *LEARNT_FOR)} | given


def _refuse(name: str, value: object, theirs: object) -> None:
    problem = f"{value}, but the weights of --init weights have {theirs}"
    raise InputError(flag(name), problem, "leave the flag out")
