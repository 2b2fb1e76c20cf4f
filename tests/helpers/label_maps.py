"""A label map of a head: ellipsoids of FreeSurfer labels, small and without any symmetry."""

from pathlib import Path

import nibabel as nib
import numpy as np

SIDE = 64
VOXEL_MM = 3.0


def ellipsoid(centre, radii):
    """(SIDE,)^3 bool, in voxels."""
    axes = np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij")
    distances = [((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)]
    return sum(distances) < 1


def write_label_maps(folder: Path) -> Path:
    """Two label maps in a folder, the second stored with a reversed axis; returns the folder."""
    labels = np.zeros((SIDE,) * 3, np.int16)
    for label, centre, radii in (
        (511, (32, 34, 33), (29, 30, 28)),  # skin
        (515, (32, 34, 34), (27, 28, 26)),  # bone
        (24, (32, 34, 34), (25, 26, 24)),  # CSF
        (3, (32, 34, 34), (23, 24, 21)),  # cortex
        (2, (32, 34, 34), (19, 20, 17)),  # white matter
        (4, (28, 36, 36), (4, 9, 4)),  # left ventricle
        (12, (42, 38, 33), (4, 6, 4)),  # a putamen
    ):
        labels[ellipsoid(centre, radii)] = label
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1])
    nib.save(nib.Nifti1Image(labels, affine), folder / "head-1.nii.gz")
    flipped = np.diag([-VOXEL_MM, VOXEL_MM, VOXEL_MM, 1])
    nib.save(nib.Nifti1Image(labels[::-1], flipped), folder / "head-2.nii.gz")
    return folder
