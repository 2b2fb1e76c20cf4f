"""Checkpoints of the released TransMorph code: their keys, and how they map to these networks'.

Each key of a released state dict is loaded, or skipped because it holds what is computed here; a
key too many or too few is an error.
"""

import re

import torch
from torch import nn

_STAGE = r"transformer\.layers\.(\d)\."
_NAMES = (
    (re.compile(r"transformer\.patch_embed\.proj\."), r"encoder.embedding.conv."),
    (re.compile(r"transformer\.patch_embed\.norm\."), r"encoder.embedding.norm."),
    (re.compile(r"transformer\.norm(\d)\."), r"encoder.stages.\1.norm."),
    (re.compile(_STAGE + r"downsample\."), r"encoder.stages.\1.merging."),
    (
        re.compile(_STAGE + r"blocks\.(\d+)\.attn\.relative_position_bias_table"),
        r"encoder.stages.\1.blocks.\2.attention.bias_table",
    ),
    (
        re.compile(_STAGE + r"blocks\.(\d+)\.attn\.(qkv|proj)\."),
        r"encoder.stages.\1.blocks.\2.attention.\3.",
    ),
    (re.compile(_STAGE + r"blocks\.(\d+)\.(norm|mlp)"), r"encoder.stages.\1.blocks.\2.\3"),
    (re.compile(r"up(\d)\.conv1\."), r"up\1.first."),
    (re.compile(r"up(\d)\.conv2\."), r"up\1.second."),
    (re.compile(r"c1\."), "skip_half."),
    (re.compile(r"c2\."), "skip_full."),
    (re.compile(r"reg_head\.0\."), "head."),
    (re.compile(r"flow_mean\."), "mean_head."),
    (re.compile(r"flow_sigma\."), "log_variance_head."),
)
_POSITIONS = ".relative_position_index"
_GRID = "spatial_trans.grid"  # [T8] it would tie a checkpoint to one size


def own_key(released_key: str) -> str | None:
    """These networks' name for a key of a released checkpoint; None for a key that is none."""
    for pattern, name in _NAMES:
        if pattern.match(released_key):
            return pattern.sub(name, released_key)
    return None


def is_released(state_dict: dict) -> bool:
    """Whether a state dict has the released code's names."""
    return "transformer.patch_embed.proj.weight" in state_dict


def load_released(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> list[str]:
    """Load the `state_dict` of a released checkpoint.

    Args:
        model: a `TransMorph` or `TransMorphDiff` of the checkpoint's width, depths, heads and
            window. Its variant is not changed.
        state_dict: keys such as `transformer.layers.0.blocks.0.norm1.weight`.

    Returns:
        The keys that were skipped: position indices, which must be those of the model's window, and
        the index grid of the warp.

    Raises:
        ValueError: for a key too many, a key too few, a tensor of another shape, or another window;
            the message names it. The model is unchanged then.
    """
    skipped, renamed = [], {}
    wanted = model.state_dict()
    buffers = dict(model.named_buffers())
    for key, tensor in state_dict.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{key} holds a {type(tensor).__name__}, no tensor")
        name = own_key(key)
        if key == _GRID:
            skipped.append(key)
        elif key.endswith(_POSITIONS):
            _check_positions(key, tensor, buffers)
            skipped.append(key)
        elif name not in wanted:
            raise ValueError(f"the checkpoint has a key that this network does not know: {key}")
        elif tensor.shape != wanted[name].shape:
            raise ValueError(
                f"{key} has shape {tuple(tensor.shape)}, this network wants "
                f"{tuple(wanted[name].shape)}: another embed_dim, window or number of heads?"
            )
        else:
            renamed[name] = tensor
    missing = [key for key in wanted if key not in renamed]
    if missing:
        raise ValueError(
            f"the checkpoint lacks {len(missing)} of {len(wanted)} tensors, first {missing[0]}"
        )
    model.load_state_dict(renamed)
    return skipped


def _check_positions(key: str, tensor: torch.Tensor, buffers: dict[str, torch.Tensor]) -> None:
    """Windows of (5, 6, 7) and (7, 6, 5) have tables of one shape; their indices differ."""
    table = own_key(key.replace(_POSITIONS, ".relative_position_bias_table"))
    rows = buffers.get(table.replace("bias_table", "bias_rows")) if table else None
    if rows is None:
        raise ValueError(f"the checkpoint has a key that this network does not know: {key}")
    if tensor.shape != rows.shape or not torch.equal(tensor.to(rows), rows):
        raise ValueError(f"{key} is that of another window than this network's")
