"""prepare.py with the headers' affines in ANTs' place, for tests of everything around the
alignment.

python -m tests.helpers.unaligned --pairs pairs.csv --out DATASET
"""

import math
import os
import tempfile
import time

import numpy as np

import prepare
from data.grids import Image, sample
from data.quality import nmi
from preparation import cohort, subject
from preparation.align.pair import Aligned, bent
from preparation.align.template import MNI_AFFINE, MNI_SHAPE, PACKAGED, load_template
from tests.helpers.tasks import kill_worker_once
from utils.cli import run
from utils.errors import notice

SECONDS = 0.5  # that a subject takes
# In this environment variable: the voxel of --space mni in mm, for tests that can do with coarser
# ones over the same field of view.
MNI_MM = "UNALIGNED_MNI_MM"
_prepare_subject = subject.prepare_subject


def mni_grid() -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of the output of --space mni."""
    voxel_mm = float(os.environ.get(MNI_MM, 1))
    shape = tuple(math.ceil(side / voxel_mm) for side in MNI_SHAPE)
    return shape, MNI_AFFINE @ np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])


def align_by_headers(mri, pet, options) -> Aligned:
    """Both volumes on the output grid, by their affines alone."""
    notice("aligned by the headers")
    with tempfile.TemporaryDirectory(prefix="dc2fusion-"):
        time.sleep(SECONDS)
    print("what ANTs prints")
    native = options.space == "mri"
    shape, affine = (mri.array.shape, mri.affine) if native else mni_grid()
    arrays = [np.maximum(sample(Image(v.array, v.affine), shape, affine), 0) for v in (mri, pet)]
    figures = {"nmi_brain": nmi(*arrays, arrays[0] > 0), "rotation_deg": 0.0, "start": "com"}
    figures |= {f"scale_{axis}": 1.0 for axis in "xyz"}
    transforms = {"pet_to_mri": np.eye(4).tolist()}
    aligned = Aligned(*arrays, np.array(affine), options.space, PACKAGED, transforms, figures, ())
    if options.warp is None:
        return aligned
    sources = {"mri": Image(mri.array, mri.affine), "pet": Image(pet.array, pet.affine)}
    matrices = {"mri_to_output": np.eye(4), "pet_to_output": np.eye(4)}
    return bent(aligned, sources, matrices, load_template(options.template), options.warp)


def prepare_subject(job) -> dict:
    """The real one with this alignment, in the process of a subject."""
    subject.align_pair = align_by_headers
    return _prepare_subject(job)


def prepare_subject_or_kill(job) -> dict:
    """The same, but the first time it kills its Dask worker half-way through synthetic-002."""
    mark = job.root.with_name("killed")
    if job.pair.name == "synthetic-002" and not mark.exists():
        subject.save_qc_picture = lambda *_: kill_worker_once(mark)
    return prepare_subject(job)


if __name__ == "__main__":
    from tests.helpers import unaligned

    cohort.prepare_subject = unaligned.prepare_subject
    run(prepare.main)
