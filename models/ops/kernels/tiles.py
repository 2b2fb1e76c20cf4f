"""The tile sizes of all kernels, in one place.

Reasoned, not measured on a GPU: `benchmarks/kernels.py` measures the kernels,
`benchmarks/registers.py` shows what they take of one. Blocks are powers of two. A block wider than
what it covers is masked.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """How much a program takes.

    Attributes:
        rows: positions of the grid.
        channels: channels; where there are more, several programs share them.
        warps: warps of 32 threads.
        planes: planes of D that share one pass over the input (1, 2 or 4), depthwise convolution
            only.
    """

    rows: int
    channels: int
    warps: int
    planes: int = 1


# 8 x 8 positions in 4 planes: a value read serves up to 4 of 64 sums a thread, about 190 registers.
DEPTHWISE = Tile(rows=64, channels=32, warps=4, planes=4)
# One warp marching along a row: the taps of two kernel axes (8 x 8) of 64 channels, 128 sums a
# thread.
DEPTHWISE_WEIGHT = Tile(rows=1, channels=64, warps=1)
DEPTHWISE_WEIGHT_PARTS = 64  # partial sums of the kernel's gradient, at most
SAMPLING = Tile(rows=16, channels=128, warps=4)
SAMPLING_SLOPE = Tile(rows=16, channels=64, warps=4)  # three sums for every value read
# A head's channels, as many as it has; 32 in the published model.
ATTENTION = Tile(rows=64, channels=32, warps=4)
ATTENTION_BACKWARD = Tile(rows=32, channels=32, warps=4)
NORM_GELU_ELEMENTS = 4096  # whole rows, as many as make up this many elements
NORM_GELU_WARPS = 8
NORM_GELU_PARTS = 512  # partial sums of the weight's and the bias's gradient, at most


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(0, math.ceil(n) - 1).bit_length()


def block(n: int, largest: int) -> int:
    """The block that covers n, or `largest` if n needs several."""
    return min(power_of_two(n), largest)
