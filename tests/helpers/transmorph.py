"""Weights by rule and inputs by formula of TransMorph's golden files, in `../shared` only."""

import json
import math

import numpy as np
import torch
from torch import nn

from models.registration.released import load_released
from models.registration.transmorph import Backbone, TransMorph, TransMorphDiff
from tests.helpers.golden import shared_file

OPTIONS = {"embed_dim": 24}  # depths and heads are the standard ones
DIFF_SCALE = {"released": (64, 10), "paper": (1, 2)}  # of the mean's head; off the variances' bias


def rule(k: int, count: int) -> np.ndarray:
    """The pseudo-random numbers in [-1, 1) of the k-th tensor."""
    i = np.arange(1, count + 1, dtype=np.float64)
    t = 43758.5453 * np.sin(12.9898 * i + 78.233 * (k + 1))
    return 2 * (t - np.floor(t)) - 1


def position_rows(window: tuple[int, int, int]) -> torch.Tensor:
    """The released `relative_position_index`, one token pair at a time."""
    tokens = list(np.ndindex(*window))
    w0, w1, w2 = window
    rows = torch.empty(len(tokens), len(tokens), dtype=torch.int64)
    for i, a in enumerate(tokens):
        for j, b in enumerate(tokens):
            row = (a[0] - b[0] + w0 - 1) * (2 * w1 - 1) + a[1] - b[1] + w1 - 1
            rows[i, j] = row * (2 * w2 - 1) + a[2] - b[2] + w2 - 1
    return rows


def released_state(window: tuple[int, int, int], diff: str | None = None) -> dict:
    """A released checkpoint at E=24 by the rule of the golden files.

    Args:
        window: of the tables; the key list is for (5, 6, 7).
        diff: None for the standard network; "paper" or "released" for TransMorph-diff.
    """
    name = "released_keys_transmorph_diff_E24" if diff else "released_keys_transmorph_E24"
    keys = json.loads(shared_file("spec", f"{name}.json").read_text())
    positions = position_rows(window)
    state, k = {}, 0
    for key, shape, dtype in keys:
        if key == "spatial_trans.grid":
            state[key] = torch.zeros(shape)
            continue
        if "int" in dtype:
            state[key] = positions
            continue
        if key.endswith("relative_position_bias_table"):
            shape = [math.prod(2 * side - 1 for side in window), shape[1]]
        values = _values(key, shape, rule(k, math.prod(shape)))
        if diff:
            values = _for_diff(key, values, *DIFF_SCALE[diff])
        state[key] = torch.from_numpy(values.astype(np.float32)).reshape(shape)
        k += 1
    return state


def golden_network(
    window: tuple[int, int, int], variant: str = "released", diff: bool = False
) -> Backbone:
    """A network in evaluation mode with the weights of the golden files."""
    kind = TransMorphDiff if diff else TransMorph
    network = kind(**OPTIONS, window=window, variant=variant)
    load_released(network, released_state(window, variant if diff else None))
    return network.eval()


def formula_pair(*sides: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Moving and fixed, (B, 1, D, H, W) float32."""
    p, q, r = _places(*sides)
    pairs = []
    for sample in range(batch):
        moving = _texture(p, q, r, 0.7 * sample) * _inside(p, q, r)
        there = (p + 0.03, q - 0.02, r + 0.025)
        fixed = (0.95 - 0.8 * _texture(*there, 0.7 * sample)) * _inside(*there)
        pairs.append((moving, fixed))
    stacked = torch.from_numpy(np.array(pairs)).float()  # B, 2, D, H, W
    return stacked[:, :1], stacked[:, 1:]


def formula_flow(*sides: int, batch: int = 1) -> torch.Tensor:
    """The displacement of the file of losses, (B, 3, D, H, W) float32."""
    p, q, r = (2 * np.pi * place for place in _places(*sides))
    flows = []
    for sample in range(batch):
        s = 0.7 * sample
        u0 = 2.5 * np.sin(2 * p + q + s) * np.cos(r)
        u1 = 2 * np.cos(p - 2 * q + s) * np.sin(r + 0.5 * p)
        u2 = 3 * np.sin(q + 1.5 * r - s) * np.cos(p + r)
        flows.append(np.stack([u0, u1, u2]))
    return torch.from_numpy(np.array(flows)).float()


def formula_labels(image: torch.Tensor) -> torch.Tensor:
    """Six classes of grey, the sixth absent: int64 of the image's shape."""
    return (5 * image.clamp(0, 0.999)).floor().long()


def formula_noise(*sides: int) -> torch.Tensor:
    """The noise of the sampled cases, (1, 3, D/2, H/2, W/2) float32."""
    shape = (1, 3, *(side // 2 for side in sides))
    return torch.from_numpy(2 * rule(999, math.prod(shape))).float().view(shape)


def strided(ours: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """The voxels of ours that a golden array keeps: every n-th from 0, in the last axes alike.

    Tokens (B, D, H, W, C) are as good as channels first, since a whole axis has n = 1.
    """
    for axis, side in enumerate(expected.shape):
        step = -(-ours.shape[axis] // side)
        places = torch.arange(0, ours.shape[axis], step)
        ours = ours.index_select(axis, places)
    return ours


class Kept:
    """The outputs of a network's modules during a forward pass, by names of our own choice."""

    def __init__(self, **modules: nn.Module) -> None:
        self.outputs: dict[str, torch.Tensor] = {}
        for name, module in modules.items():
            module.register_forward_hook(self._keep(name))

    def _keep(self, name: str):
        def hook(module: nn.Module, inputs: tuple, output) -> None:
            self.outputs[name] = output

        return hook


def _places(*sides: int) -> list[np.ndarray]:
    axes = [(np.arange(side) + 0.5) / side for side in sides]
    return np.meshgrid(*axes, indexing="ij")


def _texture(p: np.ndarray, q: np.ndarray, r: np.ndarray, s: float) -> np.ndarray:
    p, q, r = (2 * np.pi * place for place in (p, q, r))
    broad = 0.25 * np.sin(1.3 * p + 0.4 * q + s) * np.cos(0.9 * q - 0.6 * r)
    return 0.5 + broad + 0.2 * np.sin(2.1 * r + 0.7 * p - s)


def _inside(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    from_centre = ((p - 0.5) / 0.42) ** 2 + ((q - 0.5) / 0.40) ** 2 + ((r - 0.5) / 0.44) ** 2
    return (from_centre < 1).astype(np.float64)


def _values(key: str, shape: list[int], u: np.ndarray) -> np.ndarray:
    if key.endswith("bias"):
        return 0.2 * u
    if len(shape) == 1:
        return 1 + 0.2 * u
    return u * np.sqrt(3 * shape[0] / u.size)


def _for_diff(key: str, values: np.ndarray, divisor: float, subtracted: float) -> np.ndarray:
    if key.startswith("flow_mean."):
        return values.astype(np.float32) / divisor
    if key == "flow_sigma.bias":
        return values.astype(np.float32) - subtracted
    return values
