"""A head in two scanners: the transform between them is the one that is told."""

import numpy as np
from scipy import ndimage

from data.phantom.cohort import subject_seed
from data.phantom.head import make_subject
from data.phantom.visit import make_visit

SEED, VOXEL_MM = 5, 7.0


def test_pet_to_mri_brings_the_pet_onto_the_mri():
    made = make_visit(SEED, 0, VOXEL_MM)
    head = make_subject(subject_seed(SEED, 0), VOXEL_MM)
    to_pet = np.linalg.inv(made.pet_to_mri @ made.pet_affine) @ made.mri_affine
    back = ndimage.affine_transform(
        made.frames[..., 0], to_pet[:3, :3], to_pet[:3, 3], head.pet.shape, order=1
    )
    unmoved = np.linalg.inv(made.pet_affine) @ made.mri_affine
    wrong = ndimage.affine_transform(
        made.frames[..., 0], unmoved[:3, :3], unmoved[:3, 3], head.pet.shape, order=1
    )
    seen = back > 0
    right, unaligned = (np.corrcoef(pet[seen], head.pet[seen])[0, 1] for pet in (back, wrong))
    assert right > 0.95 and unaligned < right - 0.05
    rotation = made.pet_to_mri[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.linalg.det(rotation) > 0
