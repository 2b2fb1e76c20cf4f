"""The tissues that a synthetic head is made of, and how they look in MRI and PET.

One table for two sources of anatomy: FreeSurfer's labels with SynthSeg's extracerebral classes, and
the labels of `data.phantom.head`.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tissue:
    """One class of the label maps that pairs are drawn from.

    Attributes:
        name: in words.
        labels: FreeSurfer's (below 500) and SynthSeg's extracerebral ones (from 500).
        phantom: labels of `data.phantom.head.TISSUES`.
        t1: mean of a T1-weighted image, of 255, and its spread between heads.
        t2: mean of a T2- or PD-like image, of 255: free water is brightest.
        uptake: range of an FDG-PET before blur, mean cortex 1.
        is_brain: left by skull stripping.
    """

    name: str
    labels: tuple[int, ...]
    phantom: tuple[int, ...]
    t1: tuple[float, float]
    t2: float
    uptake: tuple[float, float]
    is_brain: bool = False


# T1 means and spreads: SynthSeg's priors (prior_means_t1.npy, prior_stds_t1.npy), rounded, scalp
# and soft tissue split by hand. Uptake: synthesis table of BrainWeb and Hoffman phantom practice
# (grey : white : CSF about 4 : 1 : 0) and FDG of 27 regions in 537 controls.
TISSUES = (
    Tissue("background", (0,), (0,), (4, 3), 3, (0.0, 0.0)),
    Tissue("white matter", (2, 41, 25, 57, 77, 85), (13, 14), (160, 12), 90, (0.20, 0.35), True),
    Tissue("cortex", (3, 42), (12,), (100, 11), 125, (1.0, 1.0), True),
    Tissue("CSF", (24,), (11,), (40, 10), 235, (0.0, 0.06)),
    Tissue(
        "ventricles",
        (4, 5, 43, 44, 14, 15, 72, 31, 63, 30, 62),
        (),
        (36, 9),
        240,
        (0.0, 0.06),
        True,
    ),
    Tissue("cerebellar grey", (8, 47), (20,), (96, 11), 122, (0.75, 1.10), True),
    Tissue("cerebellar white", (7, 46), (21,), (150, 12), 92, (0.25, 0.40), True),
    Tissue("thalamus", (10, 49), (18,), (130, 11), 112, (0.85, 1.10), True),
    Tissue("caudate and accumbens", (11, 50, 26, 58), (15,), (108, 11), 118, (0.95, 1.35), True),
    Tissue("putamen", (12, 51), (16,), (120, 11), 112, (0.95, 1.35), True),
    Tissue("pallidum", (13, 52), (17,), (146, 12), 85, (0.70, 0.95), True),
    Tissue("hippocampus", (17, 53), (19,), (98, 11), 128, (0.65, 0.90), True),
    Tissue("amygdala", (18, 54), (), (98, 11), 126, (0.65, 0.90), True),
    Tissue("brain stem", (16, 28, 60, 512), (22,), (138, 12), 100, (0.50, 0.75), True),
    Tissue("muscle", (507, 530), (1,), (78, 20), 60, (0.05, 0.25)),
    Tissue("fat and skin", (511,), (2, 3), (150, 35), 110, (0.02, 0.20)),
    Tissue("bone", (515,), (4,), (28, 12), 25, (0.02, 0.06)),
    Tissue("marrow", (516,), (5,), (95, 30), 80, (0.05, 0.20)),
    Tissue("dura and sinus", (514, 502), (10,), (58, 18), 70, (0.10, 0.25)),
    Tissue("mucosa", (509,), (7,), (78, 20), 150, (0.10, 0.30)),
    Tissue("eye and nerve", (506, 508), (8, 9), (45, 15), 215, (0.03, 0.12)),
    Tissue("air", (), (6,), (5, 3), 4, (0.0, 0.02)),
)
NUMBERS = {tissue.name: number for number, tissue in enumerate(TISSUES)}
CORTEX, CSF, MUSCLE = NUMBERS["cortex"], NUMBERS["CSF"], NUMBERS["muscle"]
FAT, AIR = NUMBERS["fat and skin"], NUMBERS["air"]


def brain() -> np.ndarray:
    """Which tissues skull stripping leaves: (tissues,) bool."""
    return np.array([tissue.is_brain for tissue in TISSUES])


def from_freesurfer(labels: np.ndarray) -> np.ndarray:
    """Tissue numbers of a label map, uint8; labels that no tissue names are its surroundings' CSF.

    Args:
        labels: whole numbers of at least 0, any shape.
    """
    return _table({t: tissue.labels for t, tissue in enumerate(TISSUES)}, labels, other=CSF)


def from_phantom(labels: np.ndarray) -> np.ndarray:
    """Tissue numbers of a procedural head's labels, uint8."""
    return _table({t: tissue.phantom for t, tissue in enumerate(TISSUES)}, labels, other=0)


def _table(named: dict[int, tuple[int, ...]], labels: np.ndarray, other: int) -> np.ndarray:
    table = np.full(int(labels.max()) + 1, other, dtype=np.uint8)
    for tissue, members in named.items():
        for label in members:
            if label < len(table):
                table[label] = tissue
    return table[labels]
