"""The synthetic head: anatomy, contrast, and differences between subjects."""

import numpy as np
import pytest
from scipy import ndimage

from data.phantom.head import HYPOMETABOLIC_REGIONS, TISSUES, _deform, _world_grid, make_subject

COARSE = 6.0  # mm: enough where the anatomy is not looked at
CEREBRUM = [12, 13, 14, 15, 16, 17, 18, 19]
BRAIN = [*CEREBRUM, 20, 21, 22]


@pytest.fixture(scope="module")
def subject():
    return make_subject(11)


def where(subject, *tissues):
    return np.isin(subject.labels, [TISSUES[tissue][0] for tissue in tissues])


def world(subject):
    index = np.stack([*np.indices(subject.labels.shape), np.ones(subject.labels.shape)])
    return np.einsum("ij,jxyz->ixyz", subject.affine, index)[:3]


def extent_mm(mask, voxel_mm):
    return [np.ptp(axis) * voxel_mm + voxel_mm for axis in np.nonzero(mask)]


def test_brain_and_head_have_human_size_and_place(subject):
    brain = np.isin(subject.labels, CEREBRUM)
    width, length, height = extent_mm(brain, 2)
    assert 125 < width < 150 and 160 < length < 190 and 105 < height < 140
    skull_top = subject.labels[:, :, 40:]  # above the ears and the nose
    width, length, _ = extent_mm(skull_top > 0, 2)
    assert 145 < width < 180 and 185 < length < 216
    # Whole in the field of view, except the neck, which is cut at the bottom.
    for face in ([0], [-1]):
        assert not subject.labels[face].any() and not subject.labels[:, face].any()
    assert not subject.labels[:, :, -1].any() and subject.labels[:, :, 0].any()
    # The origin is near the anterior commissure: middle of the width, above the brain stem.
    centre = world(subject)[:, brain].mean(axis=1)
    np.testing.assert_allclose(centre, [0, -18, 14], atol=8)


def test_every_tissue_is_there_and_volumes_are_plausible(subject):
    counts = np.bincount(subject.labels.ravel(), minlength=len(TISSUES) + 1) * 8 / 1000  # ml
    missing = [name for name, (label, *_) in TISSUES.items() if counts[label] == 0]
    assert not set(missing) - {"lens", "dura"}, missing  # thinner than a voxel: only their share
    grey, white = (counts[TISSUES[name][0]] for name in ("grey matter", "white matter"))
    assert 450 < grey < 800 and 350 < white < 600
    assert 1.0 < grey / white < 1.8
    assert 1000 < counts[BRAIN].sum() < 1600


def test_cortex_is_folded(subject):
    cerebrum = np.isin(subject.labels, CEREBRUM)
    closed = ndimage.binary_closing(np.pad(cerebrum, 8), iterations=6)
    closed = ndimage.binary_fill_holes(closed)[8:-8, 8:-8, 8:-8]
    depth = ndimage.distance_transform_edt(closed, sampling=2)
    grey = where(subject, "grey matter")
    # A shell 3 mm thick would have none of its grey matter below 8 mm; a folded one has much.
    assert np.mean(depth[grey] > 8) > 0.2
    # And it stays a sheet: hardly any grey matter is more than 4 mm from another tissue.
    assert np.quantile(ndimage.distance_transform_edt(grey, sampling=2)[grey], 0.95) <= 4.5


def test_mri_contrast_is_t1(subject):
    level = {name: np.median(subject.mri[where(subject, name)]) for name in
             ("white matter", "grey matter", "csf", "bone", "fat", "muscle")}  # fmt: skip
    assert (
        level["fat"] > level["white matter"] > level["grey matter"] > level["csf"] > level["bone"]
    )
    assert level["white matter"] / level["grey matter"] > 1.2
    outside = subject.labels == 0
    assert outside.mean() > 0.3
    assert not subject.mri[outside].any() and not subject.pet[outside].any()
    assert np.all(np.isfinite(subject.mri)) and subject.mri.min() == 0


def test_mri_has_bias_and_noise(subject):
    inner = ndimage.binary_erosion(where(subject, "white matter"), iterations=2)
    white = subject.mri[inner]
    assert 0.015 < white.std() / white.mean() < 0.15
    x, y, z = world(subject)[:, inner] / 100
    design = np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z])
    smooth = np.linalg.lstsq(design.T, white, rcond=None)[0] @ design
    assert np.ptp(smooth) / white.mean() > 0.03
    assert 0.01 < (white - smooth).std() / white.mean() < 0.06


def test_pet_uptake_is_fdg(subject):
    assert subject.hypometabolic is None
    names = "white matter", "putamen", "thalamus", "brain stem", "fat", "bone"
    inner = {name: ndimage.binary_erosion(where(subject, name), iterations=2) for name in names}
    deep = {name: subject.pet[mask].mean() for name, mask in inner.items()}
    cortex = subject.pet[where(subject, "grey matter")].mean()
    assert cortex > 1.8 * deep["white matter"]  # 4:1 before the point spread
    assert deep["putamen"] > 2.5 * deep["white matter"]
    assert cortex > deep["brain stem"] > deep["bone"]
    cerebellum = subject.pet[where(subject, "cerebellar grey")].mean()
    assert cerebellum < cortex
    assert deep["fat"] < 0.2 * cortex
    assert subject.pet.min() == 0


def test_pet_is_smoother_than_its_anatomy(subject):
    """Neighbours 2 mm apart agree under a 5 mm point spread, and do not in the folded anatomy."""
    brain = np.isin(subject.labels, BRAIN)
    step = brain[1:] & brain[:-1]

    def roughness(volume):
        return np.diff(volume, axis=0)[step].std() / volume[brain].std()

    assert roughness(subject.pet) < 0.5 < roughness(subject.mri)


@pytest.mark.parametrize(
    ("seed", "name"), [(3, "left temporoparietal"), (13, "right temporoparietal")]
)
def test_low_uptake_is_on_the_named_side(seed, name):
    subject = make_subject(seed, 4.0)
    assert subject.hypometabolic == name
    x, y, z = world(subject)
    (cx, cy, cz), _ = HYPOMETABOLIC_REGIONS[name]
    grey = where(subject, "grey matter")
    near = grey & (np.abs(y - cy) < 15) & (np.abs(z - cz) < 18)
    ill = subject.pet[near & (np.abs(x - cx) < 18)].mean()
    well = subject.pet[near & (np.abs(x + cx) < 18)].mean()
    assert 0.5 < ill / well < 0.9


def test_same_seed_same_head_and_other_seed_another(subject):
    a, b, c = make_subject(5, COARSE), make_subject(5, COARSE), make_subject(6, COARSE)
    for name in ("mri", "pet", "labels", "affine"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    first, second = (np.isin(s.labels, BRAIN) for s in (a, c))
    dice = 2 * (first & second).sum() / (first.sum() + second.sum())
    assert 0.75 < dice < 0.97


def test_anatomy_does_not_depend_on_the_voxel_size(subject):
    """Every second voxel of 2 mm is a voxel of 4 mm."""
    coarse = make_subject(11, 4.0)
    fine = subject.labels[::2, ::2, ::2]
    same = fine[: coarse.labels.shape[0], : coarse.labels.shape[1], : coarse.labels.shape[2]]
    assert np.mean((same == coarse.labels[tuple(map(slice, same.shape))])[same > 0]) > 0.85


@pytest.mark.parametrize("seed", range(4))
def test_deformation_is_smooth_and_invertible(seed):
    points, _ = _world_grid(4.0)
    moved = _deform(points, np.random.default_rng(seed))
    jacobian = np.stack([np.stack(np.gradient(axis, 4.0)) for axis in moved])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    assert determinant.min() > 0.3
    centred = (points - np.reshape([0, -17, 10], (3, 1, 1, 1))).T / [70, 88, 66]
    inside = ((centred**2).sum(-1) < 1).T
    shift = np.linalg.norm((moved - points)[:, inside], axis=0)
    assert 2 < shift.max() < 18  # 8 mm, plus up to 5 % of size, plus the torque


def test_the_right_half_lies_further_forward():
    points, _ = _world_grid(8.0)
    left, right = points[0] < -25, points[0] > 25
    ahead = []
    for seed in range(12):  # the random part averages out
        y = _deform(points, np.random.default_rng(seed))[1]
        ahead.append((points[1] - y)[right].mean() - (points[1] - y)[left].mean())
    assert 3 < np.mean(ahead) < 7
