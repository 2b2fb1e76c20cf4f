"""Checkpoints, weights and results of networks: damaged, odd, and made to run code."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evaluation.scorebook import VERSION, ScoreBook
from inference.published import load_published, parse_published
from inference.trained import load_model
from models import build_model
from tests.fuzz.harness import Kind
from tests.fuzz.mutations import damaged, odd_json, odd_table, odd_value
from tests.helpers.runs import SMALL_NETWORK, save_small_weights
from training import checkpoint
from training.build import build_loss, build_network
from training.config import TrainConfig

_SETTINGS = {"size": 32, "protocol": "volume"}
_SCORES = "protocol,method,subject,metric,source,value\n" + "".join(
    f"volume,average,s{number},ssim,{source},0.{number}\n"
    for number in range(3)
    for source in ("mri", "pet")
)


class RanCode(Exception):
    """Something in a file has been executed."""


# Checkpoints -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Saved:
    """A checkpoint as `training` writes it."""

    data: bytes
    config: TrainConfig


def _saved(_: Path) -> _Saved:
    torch.manual_seed(0)
    config = TrainConfig(**SMALL_NETWORK, size=36, workers=0)
    network = build_network(config)
    optimizer = torch.optim.Adam(network.parameters())
    sum(p.sum() for p in network.parameters()).backward()
    optimizer.step()
    stream = io.BytesIO()
    content = {
        "format": checkpoint.FORMAT,
        "versions": {},
        "config": config.to_dict(),
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 1,
        "step": 2,
        "best": 0.5,
        "rng": checkpoint.rng_states(),
    }
    torch.save(content, stream)
    return _Saved(stream.getvalue(), config)


def _resume(path: Path) -> None:
    """Load everything of a checkpoint, as a resumed training does."""
    states = torch.random.get_rng_state(), np.random.get_state()
    content, config = checkpoint.read_own(path)
    network = checkpoint.restore_model(path, content, config)
    optimizer = torch.optim.Adam(network.parameters())
    checkpoint.restore_optimizer(path, content["optimizer"], optimizer)
    checkpoint.restore_rng(path, content["rng"])
    torch.random.set_rng_state(states[0])
    np.random.set_state(states[1])
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # a state that does not fit is memory beyond its end


def _run_checkpoint(shared: _Saved, folder: Path, generator: np.random.Generator) -> None:
    """Bytes of the archive, or of one of its members with a checksum that agrees."""
    path = folder / "last.pt"
    if generator.random() < 0.5:
        path.write_bytes(damaged(shared.data, generator))
    else:
        _rewrite(shared.data, path, generator)
    (_resume if generator.random() < 0.7 else load_model)(path)


def _rewrite(data: bytes, path: Path, generator: np.random.Generator) -> None:
    """The same archive with one member damaged, mostly the pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        members = source.infolist()
        chosen = members[generator.integers(len(members))].filename
        if generator.random() < 0.7:
            chosen = next(member.filename for member in members if member.filename.endswith(".pkl"))
        for member in members:
            content = source.read(member)
            if member.filename == chosen:
                content = damaged(content, generator)
            target.writestr(member, content)


def _run_values(shared: _Saved, folder: Path, generator: np.random.Generator) -> None:
    """Odd values, and tensors of other shapes and types, somewhere in a good checkpoint."""
    content = torch.load(io.BytesIO(shared.data), weights_only=True)
    for _ in range(generator.integers(1, 4)):
        holder = content
        while True:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = keys[generator.integers(len(keys))]
            inner = holder[key]
            if not isinstance(inner, dict | list) or not inner or generator.random() < 0.1:
                break
            holder = inner
        holder[key] = _odd(inner, generator)
    torch.save(content, folder / "last.pt")
    (_resume if generator.random() < 0.7 else load_model)(folder / "last.pt")


def _odd(value: object, generator: np.random.Generator) -> object:
    if not isinstance(value, torch.Tensor) or generator.random() < 0.3:
        return odd_value(generator)
    changes: tuple[Callable, ...] = (
        lambda tensor: tensor.flatten()[:-1],
        lambda tensor: tensor[None],
        lambda tensor: tensor.double(),
        lambda tensor: tensor.to(torch.int64),
        lambda tensor: tensor.new_zeros(()),
        lambda tensor: tensor.new_zeros(()).expand(tensor.shape),
        lambda tensor: tensor.to_sparse() if tensor.ndim else tensor,
        lambda tensor: torch.full_like(tensor, 255),
    )
    return changes[generator.integers(len(changes))](value)


# What wants to run code --------------------------------------------------------------------------


class _Attack:
    """A pickle of it calls a function with arguments when it is loaded."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def _attack(mark: Path, generator: np.random.Generator) -> _Attack:
    """One of several ways to make a file when a pickle is loaded."""
    touch = f"open({str(mark)!r}, 'w').close()"
    ways = (
        _Attack(os.system, f"touch {mark}"),
        _Attack(subprocess.call, ["touch", str(mark)]),
        _Attack(exec, touch),
        _Attack(eval, touch),
        _Attack(Path.touch, mark),
        _Attack(os.mkdir, str(mark)),
        _Attack(torch.save, 1, str(mark)),
        _Attack(np.save, str(mark), 1),
        _Attack(list, _Attack(map, os.mkdir, [str(mark)])),
        _Attack(torch.hub.load, str(mark.parent), "entry", "local"),
    )
    return ways[generator.integers(len(ways))]


def _run_attack(shared: _Saved, folder: Path, generator: np.random.Generator) -> None:
    """Hidden in a checkpoint, a bare pickle, weights or arrays, for each reader of these."""
    mark = folder / "ran"
    (folder / "hubconf.py").write_text(f"def entry(): open({str(mark)!r}, 'w')")
    attack = _attack(mark, generator)
    form = generator.integers(6)
    path = folder / f"file{('.pt', '.pth', '.npz', '.pt', '.safetensors', '.npz')[form]}"
    content = torch.load(io.BytesIO(shared.data), weights_only=True)
    if form == 0:
        place = ("model", "optimizer", "config", "rng", "epoch")[generator.integers(5)]
        torch.save(content | {place: attack}, path)
    elif form in (1, 3):
        protocol = int(generator.integers(0, 6))
        path.write_bytes(pickle.dumps({"features.0.weight": attack}, protocol))
    elif form == 2:
        np.savez(path, weights=np.array([attack], dtype=object))
    elif form == 4:
        path.write_bytes(pickle.dumps(attack))
        path.with_suffix(".json").write_bytes(pickle.dumps(attack))
    else:
        path.write_bytes(pickle.dumps(attack))
    reader = (_resume, load_model, _read_published, _read_vgg)[generator.integers(4)]
    try:
        reader(path)
    finally:
        if mark.exists() or list(folder.glob("ran*")):
            raise RanCode(f"{attack.call[0]} in {path.name}")


# Weights -----------------------------------------------------------------------------------------


def _read_published(path: Path, method: str = "dilran") -> None:
    """As infer_sigleImage.py and evaluate.py do."""
    given = parse_published(f"{method}={path}", "--weights")
    load_published(given, "--weights", "axial", "released", 36)


def _read_vgg(path: Path) -> None:
    """As a training of U2Fusion or DILRAN does."""
    build_loss(TrainConfig.of({"model": "dilran", "vgg": str(path)}))


def _small_weights(folder: Path) -> Path:
    save_small_weights(folder / "small.safetensors")
    return folder / "small.safetensors"


def _run_weights(shared: Path, folder: Path, generator: np.random.Generator) -> None:
    """The tensors or the record beside them; half of the time with a hash that agrees."""
    path = folder / shared.name
    data, record = shared.read_bytes(), json.loads(shared.with_suffix(".json").read_text())
    if generator.random() < 0.7:
        data = damaged(data, generator, None if generator.random() < 0.5 else 2000)
        if generator.random() < 0.7:
            record["sha256"] = hashlib.sha256(data).hexdigest()
        text = json.dumps(record).encode()
    else:
        text = odd_json(record if generator.random() < 0.5 else record["about"], generator)
    path.write_bytes(data)
    path.with_suffix(".json").write_bytes(text)
    load_model(path)


def _published(_: Path) -> list[tuple[str, str, bytes]]:
    """(method, suffix, bytes): state dicts and arrays of small published networks."""
    found = []
    for method in ("matr", "dilran"):
        network: nn.Module = build_model(method)
        state = network.state_dict()
        stream = io.BytesIO()
        torch.save(state, stream)
        found.append((method, ".pth", stream.getvalue()))
        stream = io.BytesIO()
        np.savez(stream, **{name: tensor.numpy() for name, tensor in state.items()})
        found.append((method, ".npz", stream.getvalue()))
    return found


def _run_published(shared: list, folder: Path, generator: np.random.Generator) -> None:
    method, suffix, data = shared[generator.integers(len(shared))]
    path = folder / f"weights{suffix}"
    if generator.random() < 0.5:
        path.write_bytes(damaged(data, generator))
    else:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
            names = source.namelist()
            chosen = names[generator.integers(len(names))]
            for name in names:
                content = source.read(name)
                target.writestr(name, damaged(content, generator) if name == chosen else content)
    if generator.random() < 0.2:
        _read_vgg(path)
    else:
        _read_published(path, method)


# Results -----------------------------------------------------------------------------------------


def _run_scores(_: None, folder: Path, generator: np.random.Generator) -> None:
    """An evaluation that goes on from tables that somebody has changed."""
    stamps = {
        "settings": {"version": VERSION, **_SETTINGS},
        "stamps": {"average": {"s0": [1, "x"]}},
    }
    way = generator.integers(3)
    text = odd_table(_SCORES, generator) if way == 0 else _SCORES.encode()
    (folder / "scores.csv").write_bytes(text)
    content = odd_json(stamps, generator) if way == 1 else json.dumps(stamps).encode()
    (folder / "scores.json").write_bytes(content)
    if way == 2:
        scores = [["volume", "average", {"ssim_mri": 0.5}]]
        lines = {"subject": "s4", "scores": scores, "stamps": {"average": [2, "y"]}}
        (folder / "scores.jsonl").write_bytes(odd_json(lines, generator))
    book = ScoreBook(folder, _SETTINGS)
    book.drop_outdated({"average": {"s0": [1, "x"], "s1": [3, "z"]}})
    book.add("s5", {("volume", "average"): {"ssim_mri": 0.5}}, {"average": [1, "x"]})
    book.close()


CHECKPOINTS = Kind("checkpoints, bytes", _saved, _run_checkpoint)
VALUES = Kind("checkpoints, values", _saved, _run_values)
ATTACKS = Kind("pickles that run code", _saved, _run_attack)
WEIGHTS = Kind("weights and records", _small_weights, _run_weights)
PUBLISHED = Kind("published weights", _published, _run_published)
SCORES = Kind("scores", lambda folder: None, _run_scores)
NETWORKS = {CHECKPOINTS: 3, VALUES: 3, ATTACKS: 3, WEIGHTS: 2, PUBLISHED: 1, SCORES: 1}
