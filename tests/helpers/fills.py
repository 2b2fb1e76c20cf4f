"""Deterministic weights of the golden files of the 2-D baselines: rule A (smooth) and rule B
(pseudo-random).
"""

from collections.abc import Iterable

import numpy as np
import torch

_NOT_COUNTED = ("attn_mask", "num_batches_tracked", "relative_position_index")


def fill(named_tensors: Iterable[tuple[str, torch.Size]], rule: str) -> dict[str, torch.Tensor]:
    """Values for every named tensor, by its place k in the list and the index i inside the tensor.

    Args:
        named_tensors: names and shapes in the order of the published state dict, tensors that the
            network never uses included, since they take a k. Integer buffers and attention masks
            may be among them; they take none and get no values.
        rule: "A" or "B".
    """
    counted = (
        (name, shape) for name, shape in named_tensors if name.split(".")[-1] not in _NOT_COUNTED
    )
    values = {"A": _rule_a, "B": _rule_b}[rule]
    return {
        name: torch.from_numpy(values(k, name, tuple(shape)).astype(np.float32)).reshape(shape)
        for k, (name, shape) in enumerate(counted)
    }


def _is_norm_weight(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 and name.endswith(".weight") and not name.startswith("prelu")


def _rule_a(k: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = 0.05 * np.sin(0.37 * np.arange(np.prod(shape, dtype=int)) + 0.11 * k)
    if name.endswith("running_mean"):
        return np.zeros_like(values)
    if name.endswith("running_var"):
        return np.ones_like(values)
    return 1 + values if _is_norm_weight(name, shape) else values


def _rule_b(k: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    size = np.prod(shape, dtype=int)
    turns = 43758.5453 * np.sin(12.9898 * np.arange(1, size + 1) + 78.233 * (k + 1))
    u = 2 * (turns - np.floor(turns)) - 1
    if name.endswith("running_var"):
        return 1 + 0.5 * u
    if name.endswith("relative_position_bias_table"):
        return u
    if len(shape) == 1:
        return 1 + 0.2 * u if _is_norm_weight(name, shape) else 0.2 * u
    return u * np.sqrt(3 * shape[0] / size)
