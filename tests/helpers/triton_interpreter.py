"""Triton made to interpret its kernels where there is no CUDA device.

Triton decides when it is imported, and PyTorch imports it on its own (`torch.utils.flop_counter`,
the first optimiser), so tests/conftest.py imports this module before any test is collected.
"""

import torch

from models.ops import kernels

WHY_NOT = None
try:
    if torch.cuda.is_available():
        import triton  # noqa: F401
    else:
        with kernels.interpreted():
            pass
except ImportError:
    WHY_NOT = "Triton is not installed"
except RuntimeError as error:
    WHY_NOT = str(error)
