"""The two ways to compute the network: one mathematics, one set of parameters.

    plain   straightforward PyTorch operations, the oracle that everything else is tested against
    fast    the same numbers to rounding, several times cheaper

The few operations that differ are one function each, which takes the path as its last argument:
    models.ops.depthwise   depthwise_conv3d, blend_conv3d
    models.ops.sampling    sample_partner
    models.ops.attention   window_attention
    models.ops.norm_gelu       norm_gelu_linear, gelu_linear
    models.ops.stream_maps        stream_maps
Nothing else in the network asks which path it is on. On a CUDA device the fast forms of the first
four take the Triton kernels of `models.ops.kernels`.
"""

PATHS = ("fast", "plain")


def check_path(path: str) -> str:
    """The path itself.

    Raises:
        ValueError: for an unknown one; the message lists the known ones.
    """
    if path not in PATHS:
        raise ValueError(f"unknown path {path!r}, choose from {', '.join(PATHS)}")
    return path
