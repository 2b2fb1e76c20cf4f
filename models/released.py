"""Checkpoints of the released DC2Fusion code: their keys, and how they map to this network's.

A released checkpoint is a plain state dict. Each of its keys is loaded, or named as skipped because
the released forward never uses it; a key too many or too few is an error.
"""

import re

import torch
from torch import nn

# Linear layers here, 1x1x1 convolutions there: the trailing axes of their weights are dropped.
_POINTWISE = (
    "relationship.embed",
    "relationship.to_offset",
    "channel_gate.reduce",
    "channel_gate.expand",
    "spatial_gate.reduce",
    "spatial_gate.expand",
    "conv_projection",
)

_IN_BLOCK = {
    "norm1": "norm",
    "cross_attn.q": "blend.attention.query",
    "cross_attn.k": "blend.attention.key",
    "cross_attn.v": "blend.attention.value",
    "proj_q": "relationship.embed",
    "conv_offset.0": "relationship.depthwise",
    "conv_offset.1.norm": "relationship.norm",
    "conv_offset.3": "relationship.to_offset",
    "dwconv3x3.0": "blend.blend_conv",
    "dwconv3x3.1": "blend.blend_norm",
    "channel_interaction.1": "blend.channel_gate.reduce",
    "channel_interaction.2.norm": "blend.channel_gate.norm",
    "channel_interaction.4": "blend.channel_gate.expand",
    "spatial_interaction.0": "blend.spatial_gate.reduce",
    "spatial_interaction.1.norm": "blend.spatial_gate.norm",
    "spatial_interaction.3": "blend.spatial_gate.expand",
    "projection": "blend.conv_projection",
    "proj": "blend.merge",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}

_OUTSIDE = {
    "swin.patch_embed.proj": "patch_embedding",
    "swin.norm": "bottleneck_norm",
    "swin.norm2": "head.norm",
    "swin.reverse_patch_embedding": "head.to_voxels",
    "out_conv": "head.to_maps",
}

_STAGES = (
    (re.compile(r"swin\.layers\.(\d)\.downsample\.down_conv"), r"merging.\1.conv"),
    (re.compile(r"swin\.layers\.(\d)\.downsample\.norm"), r"merging.\1.norm"),
    (re.compile(r"swin\.up_layers\.(\d)\.downsample\.up_conv"), r"expanding.\1.conv"),
    (re.compile(r"swin\.up_layers\.(\d)\.downsample\.norm"), r"expanding.\1.norm"),
)
_BLOCK = re.compile(r"swin\.(layers|up_layers)\.(\d)\.blocks\.(\d)\.(.+)")
_SKIP_REDUCTION = re.compile(r"swin\.concat_back_dim\.([123])")
_UNUSED = re.compile(r".*\.cross_attn\.proj\.(weight|bias)|swin\.concat_back_dim\.0\.(weight|bias)")


def own_key(released_key: str) -> str | None:
    """This network's name for a key of a released checkpoint; None for a key that is none."""
    module, _, parameter = released_key.rpartition(".")
    if block := _BLOCK.fullmatch(module):
        side = "encoder" if block[1] == "layers" else "decoder"
        inner = _IN_BLOCK.get(block[4])
        return inner and f"{side}.{block[2]}.{block[3]}.{inner}.{parameter}"
    if reduction := _SKIP_REDUCTION.fullmatch(module):
        return f"skip_reduction.{int(reduction[1]) - 1}.{parameter}"
    for pattern, name in _STAGES:
        if pattern.fullmatch(module):
            return f"{pattern.sub(name, module)}.{parameter}"
    outside = _OUTSIDE.get(module)
    return outside and f"{outside}.{parameter}"


def is_unused(released_key: str) -> bool:
    """Whether the released forward never uses what this key holds."""
    return _UNUSED.fullmatch(released_key) is not None


def is_released(state_dict: dict) -> bool:
    """Whether a state dict has the released code's names."""
    return "swin.patch_embed.proj.weight" in state_dict


def load_released(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> list[str]:
    """Load a checkpoint of the released code.

    Args:
        model: a DC2Fusion of the checkpoint's width. Its variant is not changed:
            `variant="released"` gives the released code's numbers.
        state_dict: the released checkpoint, keys such as `swin.layers.0.blocks.0.norm1.weight`.

    Returns:
        The keys that were skipped because the released forward does not use them.

    Raises:
        ValueError: for a key too many, a key too few or a tensor of another shape; the message
            names it. The model is unchanged then.
    """
    skipped, renamed = [], {}
    wanted = model.state_dict()
    for key, tensor in state_dict.items():
        name = own_key(key)
        if is_unused(key):
            skipped.append(key)
        elif name not in wanted:
            raise ValueError(f"the checkpoint has a key that DC2Fusion does not know: {key}")
        else:
            renamed[name] = _reshape(key, name, tensor, wanted[name])
    missing = wanted.keys() - renamed.keys()
    if missing:
        first = next(key for key in wanted if key in missing)
        raise ValueError(
            f"the checkpoint lacks {len(missing)} of {len(wanted)} tensors, first {first}"
        )
    model.load_state_dict(renamed)
    return skipped


def _reshape(key: str, name: str, tensor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{key} holds a {type(tensor).__name__}, no tensor")
    pointwise = name.rpartition(".")[0].endswith(_POINTWISE)
    if pointwise and tensor.ndim == 5 and tensor.shape[2:] == (1, 1, 1):
        tensor = tensor.flatten(1)
    if tensor.shape != target.shape:
        raise ValueError(
            f"{key} has shape {tuple(tensor.shape)}, this network wants {tuple(target.shape)}: "
            "was the checkpoint trained with another embed_dim?"
        )
    return tensor
