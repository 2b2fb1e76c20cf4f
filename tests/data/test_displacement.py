"""Displacement fields: as ANTs reads them, images through them in one interpolation, folds."""

import nibabel as nib
import numpy as np
import pytest
import torch

from data.displacement import (
    Displacement,
    determinants,
    displacement_bytes,
    read_displacement,
    sample_through,
    vectors_at,
)
from data.grids import Image, sample
from metrics.registration import jacobian_determinant
from utils.errors import InputError

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
AFFINE[:3, 3] = -40, -50, -30


@pytest.fixture
def field():
    """A smooth field of a few mm on a coarse grid."""
    grids = np.meshgrid(*(np.linspace(0, 2 * np.pi, n) for n in (26, 30, 22)), indexing="ij")
    x, y, z = grids
    vectors = np.stack([4 * np.sin(y), 3 * np.cos(x) * np.sin(z), 5 * np.sin(x + z)], axis=-1)
    return Displacement(vectors.astype(np.float32), AFFINE)


@pytest.fixture
def moving():
    """A smooth image on a turned grid of its own, brightest in one corner."""
    shape = (40, 44, 36)
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    values = 100 * (1 + np.sin(7 * x + 2 * y)) * (0.4 + z) + 30 * y
    affine = np.array([[0, -2.0, 0.2, 40], [2.0, 0, 0, -45], [0, 0.2, 2.0, -30], [0, 0, 0, 1]])
    return Image(values.astype(np.float32), affine)


MATRIX = np.array([[1.05, 0.1, 0, 2], [-0.1, 0.97, 0.03, -1], [0, 0, 1.1, 3], [0, 0, 0, 1.0]])


def test_a_file_is_read_back(field, tmp_path):
    path = tmp_path / "field.nii.gz"
    path.write_bytes(displacement_bytes(field))
    again = read_displacement(path)
    assert np.array_equal(again.vectors, field.vectors) and np.allclose(again.affine, AFFINE)
    assert displacement_bytes(field) == displacement_bytes(again)
    image = nib.load(path)
    assert image.shape == (26, 30, 22, 1, 3) and image.header.get_intent()[0] == "vector"
    stored = np.asarray(image.dataobj)[:, :, :, 0]
    assert np.array_equal(stored, field.vectors * [-1, -1, 1])  # LPS


def test_what_is_no_field_is_refused(field, tmp_path):
    path = tmp_path / "field.nii.gz"
    path.write_bytes(displacement_bytes(field)[:500])
    with pytest.raises(InputError, match="field.nii.gz"):
        read_displacement(path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), path)
    with pytest.raises(InputError, match="no field's"):
        read_displacement(path)
    broken = Displacement(np.where(field.vectors > 4, np.nan, field.vectors), AFFINE)
    path.write_bytes(displacement_bytes(broken))
    with pytest.raises(InputError, match="NaN"):
        read_displacement(path)


def test_no_displacement_is_the_affine_sampling(field, moving):
    still = Displacement(np.zeros_like(field.vectors), AFFINE)
    grid = (30, 32, 28), np.diag([2.5, 2.5, 2.5, 1]) + np.array([[0, 0, 0, -35]] * 3 + [[0] * 4])
    for order in (0, 1):
        found = sample_through(moving, *grid, still, MATRIX, order)
        assert found == pytest.approx(sample(moving, *grid, MATRIX, order), abs=1e-2)


def test_a_shift_takes_the_value_from_where_it_points(moving):
    vectors = np.zeros((10, 10, 10, 3), np.float32)
    vectors[...] = 4.0, -6.0, 2.0  # mm
    field = Displacement(vectors, np.diag([8.0, 8, 8, 1]))
    still = Image(moving.array, np.diag([2.0, 2, 2, 1]))
    found = sample_through(still, (20, 20, 20), still.affine, field)
    assert found[5:10, 5:10, 5:10] == pytest.approx(moving.array[7:12, 2:7, 6:11])
    assert not vectors_at(field, np.array([[-0.1, 3, 3], [72.1, 3, 3]])).any()
    assert (vectors_at(field, np.array([[0.0, 72, 3]])) == [4, -6, 2]).all()


def test_ants_applies_the_file_to_the_same_volume(field, moving, tmp_path):
    """Field and affine by ANTs, against ours, where neither touches the border."""
    ants = pytest.importorskip("ants")
    shape, affine = (60, 70, 52), np.diag([1.2, 1.2, 1.2, 1.0])
    affine[:3, 3] = -36, -45, -28
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("field", "moving", "fixed")}
    paths["field"].write_bytes(displacement_bytes(field))
    # ANTs takes right angles only.
    straight = Image(moving.array, np.diag([2.0, 2.0, 2.0, 1]))
    straight.affine[:3, 3] = -40, -44, -36
    for name, image in (
        ("moving", straight),
        ("fixed", Image(np.zeros(shape, np.float32), affine)),
    ):
        saved = nib.Nifti1Image(image.array, image.affine)
        saved.set_sform(image.affine, 4)
        saved.set_qform(image.affine, 4)
        nib.save(saved, paths[name])
    lps = np.diag([-1.0, -1, 1, 1])
    backwards = lps @ np.linalg.inv(MATRIX) @ lps
    transform = ants.create_ants_transform(
        transform_type="AffineTransform",
        dimension=3,
        matrix=backwards[:3, :3],
        translation=backwards[:3, 3],
    )
    ants.write_transform(transform, str(tmp_path / "affine.mat"))
    by_ants = ants.apply_transforms(
        ants.image_read(str(paths["fixed"])),
        ants.image_read(str(paths["moving"])),
        [str(paths["field"]), str(tmp_path / "affine.mat")],
        interpolator="linear",
    ).numpy()
    ours = sample_through(straight, shape, affine, field, MATRIX)
    # At the border of the moving image ANTs cuts, and ours falls to 0 within a voxel.
    inner = (slice(12, -12),) * 3
    assert np.abs(by_ants - ours)[inner].max() < 1e-5 * ours.max()
    without = sample(straight, shape, affine, MATRIX)
    assert np.abs(without - ours)[inner].max() > 0.1 * ours.max()  # so that it shows


def test_determinants_are_those_of_the_measures(field):
    voxels = torch.from_numpy(field.vectors / 3).movedim(-1, 0)[None]
    expected = jacobian_determinant(voxels)[0].numpy()
    assert determinants(field) == pytest.approx(expected, abs=1e-5)
    folding = Displacement(field.vectors * 10, AFFINE)
    assert (determinants(folding) <= 0).any()
