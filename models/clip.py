"""Clipping to the intensity range that lets back in what lies outside.

The gradient of `clamp` is 0 outside the range: a voxel that is too bright stays so, however much
the loss would gain by a darker one, and the coefficients learn of it from its neighbours only. Here
a gradient that leads back in passes, as in projected gradient descent, which the voxelwise optimum
is found by (`inference.optimum`); one that leads farther out does not.
"""

import torch


class _ClipToUnit(torch.autograd.Function):
    """See `clip_to_unit`."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, volume: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(volume)
        return volume.clamp(0, 1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: torch.Tensor) -> torch.Tensor:
        (volume,) = ctx.saved_tensors
        outwards = ((volume < 0) & (upstream > 0)) | ((volume > 1) & (upstream < 0))
        return upstream.masked_fill(outwards, 0)


def clip_to_unit(volume: torch.Tensor) -> torch.Tensor:
    """`volume` clipped to [0, 1], any shape; its gradient is that of the clipped one where a step
    against it does not lead out of [0, 1], else 0.
    """
    return _ClipToUnit.apply(volume)
