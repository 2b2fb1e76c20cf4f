"""The learned step after the affine one: a field found by a network, in a process of its own.

Preparation stays free of PyTorch: `python -m inference.register` is started, by an interpreter that
has it, for every subject. What comes back is a file, and is judged like everything else: a network
can be wrong, and a field that folds or fits worse than none is not used.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from data.displacement import Displacement, determinants, read_displacement, vectors_at
from data.grids import Image, carry, sample
from preparation.align.template import Template
from utils.errors import InputError
from utils.processes import end_with_parent

CHECKPOINTS = "best.pt", "last.pt"  # of a run folder, the better first
# A field beyond these is not used. Affinely aligned heads differ by a few millimetres to two
# centimetres, and a right field raises the correlation.
MOST_FOLDED, MOST_MM, MOST_WORSE = 0.01, 40.0, 0.01
_ROOT = Path(__file__).resolve().parents[2]
_REMEDY = "see `python -m inference.register --help`, and --warp-python for its environment"


@dataclass(frozen=True)
class Network:
    """Which network, and by which Python it runs.

    Attributes:
        checkpoint: run folder or checkpoint of `train_diff.py --model transmorph`.
        python: an interpreter that has PyTorch; None for this one.
    """

    checkpoint: Path
    python: Path | None = None

    @property
    def file(self) -> Path:
        """The checkpoint itself."""
        for name in CHECKPOINTS:
            if (self.checkpoint / name).is_file():
                return self.checkpoint / name
        return self.checkpoint

    @property
    def digest(self) -> str:
        """SHA-256 of the checkpoint.

        Raises:
            OSError: it cannot be read.
        """
        status = self.file.stat()
        return _digest(self.file, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """See, before any work, whether the network can be used.

        Raises:
            InputError: it cannot.
        """
        if not self.file.is_file():
            raise InputError(self.checkpoint, "no such checkpoint", "give a run folder or .pt file")
        self.run("--check")

    def field(self, moving: Image, fixed: Image) -> Displacement:
        """The field that brings a head onto a template, both in its space.

        Raises:
            InputError: the network's process fails.
        """
        with tempfile.TemporaryDirectory(prefix="dc2fusion-") as folder:
            paths = {name: Path(folder) / f"{name}.nii" for name in ("moving", "fixed")}
            for name, image in (("moving", moving), ("fixed", fixed)):
                nib.save(nib.Nifti1Image(image.array.astype(np.float32), image.affine), paths[name])
            found = Path(folder) / "field.nii.gz"
            flags = ("--moving", paths["moving"], "--fixed", paths["fixed"], "--field", found)
            self.run(*map(str, flags))
            return read_displacement(found)

    def run(self, *flags: str) -> None:
        """Start the program and wait for it; it ends when this process does.

        Raises:
            InputError: it cannot be started or fails, with its own last line.
        """
        python = sys.executable
        if self.python:  # a path starts here, not in the program's folder; a bare name is looked up
            python = str(self.python.absolute() if self.python.exists() else self.python)
        command = [python, "-m", "inference.register", "--checkpoint", str(self.file.absolute())]
        # One thread: subjects are what runs beside each other, and the result is the same.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        try:
            ended = subprocess.run(
                [*command, *flags],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            problem = f"cannot be started ({error.strerror or error})"
            raise InputError(python, problem, _REMEDY) from error
        if ended.returncode:
            lines = [line for line in ended.stderr.splitlines() if line.strip()]
            said = lines[-1].removeprefix("error: ") if lines else f"status {ended.returncode}"
            raise InputError("--warp", f"its network's process failed ({said})", _REMEDY)


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; size and time of change make it anew."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure_field(
    field: Displacement, before: np.ndarray, after: np.ndarray, affine: np.ndarray, to: Template
) -> dict[str, float]:
    """Figures of a field.

    Args:
        before, after: the MRI on the output's grid by the affine transform alone and with the
            field; values there.
        affine: of that grid.
        to: what it was brought onto.

    Returns:
        warp_folded: share of the field's voxels in the brain with a determinant of 0 or less;
        warp_mean_mm, warp_max_mm: length of the displacement in the brain;
        warp_before, warp_after: correlation with the template inside its brain.
    """
    brain = sample(to.brain, before.shape, affine) > 0.5
    template = sample(to.head, before.shape, affine)[brain]
    there = sample(to.brain, field.vectors.shape[:3], field.affine) > 0.5
    lengths = np.linalg.norm(vectors_at(field, carry(affine, np.argwhere(brain)[::7])), axis=1)
    return {
        "warp_folded": float((determinants(field)[there] <= 0).mean()),
        "warp_mean_mm": float(lengths.mean()),
        "warp_max_mm": float(lengths.max()),
        "warp_before": _correlation(template, before[brain]),
        "warp_after": _correlation(template, after[brain]),
    }


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r; 0 where one of them is constant."""
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def warp_flags(figures: Mapping[str, float | str | None]) -> list[str]:
    """Why a field is not to be used; nothing where it is, or where there is none."""
    if figures.get("warp_after") is None:
        return []
    flags = []
    if figures["warp_folded"] > MOST_FOLDED:
        share = f"{figures['warp_folded']:.1%} of the brain"
        flags.append(f"the learned field folds {share}: the affine result was kept")
    if figures["warp_max_mm"] > MOST_MM:
        length = f"{figures['warp_max_mm']:.0f} mm"
        flags.append(f"the learned field moves the brain by {length}: the affine result was kept")
    if figures["warp_after"] < figures["warp_before"] - MOST_WORSE:
        fits = f"correlation {figures['warp_before']:.3f} before, {figures['warp_after']:.3f} after"
        flags.append(f"the learned field fits worse ({fits}): the affine result was kept")
    return flags
