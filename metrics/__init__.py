"""Scores of a fused volume against its MRI and PET.

    score(fused, mri, pet) -> {"psnr": ..., "psnr_mri": ..., "psnr_pet": ..., "psnr_min": ..., ...}

`METRICS[name]` says what each metric is, which direction is better and whether it exists per
source. A metric with sources returns four keys: `name` (the mean over the sources; the sum where
its definition says so), `name_mri`, `name_pet` and `name_min` (the worse of the two sources, which
a copy of the other source cannot raise). The rest return `name` only. `clipped` is the fraction of
fused voxels outside [0, 1].

`ALL_METRICS` has lesion transfer beside them, which is measured by running a method, see
`metrics.transfer`.
"""

from .images import TooSmall, clip_unit
from .registry import ALL_METRICS, METRICS, Metric, keys_of
from .score import PROTOCOLS, Scorer, UndefinedScore, score

__all__ = [
    "ALL_METRICS",
    "METRICS",
    "PROTOCOLS",
    "Metric",
    "Scorer",
    "TooSmall",
    "UndefinedScore",
    "clip_unit",
    "keys_of",
    "score",
]
