"""Made-up scores of four methods on three participants, for the tests of tables and statistics."""

import numpy as np

from evaluation.results import Results, Row

ROWS = [
    Row("net_1", "net_1", False),
    Row("other", "other", False),
    Row("average", "average", True),
    Row("copy-mri", "copy of the MRI", True),
]


def parts(name, mri, pet):
    """{key: scores} of a metric and its parts."""
    mri, pet = np.asarray(mri, float), np.asarray(pet, float)
    return {
        name: (mri + pet) / 2,
        f"{name}_mri": mri,
        f"{name}_pet": pet,
        f"{name}_min": np.minimum(mri, pet),
    }


def example_scores():
    """Three participants; the copy has the largest mean in every score."""
    return {
        "net_1": parts("psnr", [20, 21, 22], [18, 18, 18])
        | parts("ssim", [0.8, 0.7, 0.6], [0.5, 0.5, 0.5]),
        "other": parts("psnr", [25, 25, 25], [12, 12, 12])
        | parts("ssim", [0.9, 0.9, 0.9], [0.3, 0.3, 0.3]),
        "average": parts("psnr", [19, 19, 19], [19, 19, 19])
        | parts("ssim", [0.6, 0.6, 0.6], [0.6, 0.6, 0.6]),
        "copy-mri": parts("psnr", [np.inf] * 3, [11, 11, 11])
        | parts("ssim", [1, 1, 1], [0.45, 0.45, 0.45]),
    }


def results_of(values, protocol="volume", rows=ROWS):
    """Results of one protocol."""
    return Results(protocol, rows, values, "About.")
