"""Training objectives by name: `build_objective("ssim-gradient-intensity", alpha=(2, 1), ...)`."""

from losses.baselines.slicewise import build_slice_objective
from losses.objective import OBJECTIVES, Objective, build_objective

__all__ = ["OBJECTIVES", "Objective", "build_objective", "build_slice_objective"]
