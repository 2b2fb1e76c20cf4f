"""Numerical fixtures of the published systems: those of tests/golden come with the code, the rest
lie in an optional folder `shared` beside the checkout, whose tests are skipped without it.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
HERE = ROOT / "tests" / "golden"


def shared_file(*parts: str) -> Path:
    """A file or folder of the fixtures; skips the test where it is missing."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no ../shared/{'/'.join(parts)} beside the checkout")
    return path


def golden(name: str) -> Path:
    """A file of tests/golden or, where that has none, of `../shared/golden`; skips without both."""
    own = HERE / name
    if own.exists():
        return own
    return shared_file("golden", *name.split("/"))


def golden_tensors(name: str) -> dict[str, torch.Tensor]:
    """The arrays of a golden `.npz` as tensors."""
    with np.load(golden(name)) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


@cache
def rule_filled_released_state() -> dict[str, torch.Tensor]:
    """A checkpoint of the released code at E=24 whose values follow the rule of the golden files.

    For element i of the k-th floating tensor: t = 43758.5453 sin(12.9898 (i+1) + 78.233 (k+1)), and
    u is the fraction of t brought to [-1, 1), scaled by the kind of tensor.
    """
    keys = json.loads((HERE / "released_keys_E24.json").read_text())
    state = {}
    k = 0
    for key, shape, dtype in keys:
        if "int" in dtype:
            state[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        n = int(np.prod(shape))
        t = 43758.5453 * np.sin(12.9898 * np.arange(1, n + 1, dtype=np.float64) + 78.233 * (k + 1))
        u = 2 * (t - np.floor(t)) - 1
        k += 1
        if key.endswith("running_mean"):
            values = 0.2 * u
        elif key.endswith("running_var"):
            values = 1 + 0.5 * u
        elif key.endswith("bias"):
            values = 0.2 * u
        elif len(shape) == 1:
            values = 1 + 0.2 * u
        else:
            values = u * np.sqrt(3 * shape[0] / n)
        state[key] = torch.from_numpy(values.astype(np.float32)).reshape(shape)
    return state


def relative_error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """||ours - expected|| / ||expected||, in float64."""
    ours, expected = ours.double(), expected.double()
    return ((ours - expected).norm() / expected.norm()).item()
