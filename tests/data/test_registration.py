"""Heads for registration: found without PETs, on one grid, paired, cut to the template."""

import nibabel as nib
import numpy as np
import pytest
import torch

from data.grids import Image
from data.phantom.cohort import write_image
from data.registration import IDENTITY, HeadPairs
from data.settings import Cache
from data.subjects import Head, find_heads
from data.template_space import FIELD_OF_VIEW, RIM_MM, Space, read_target, target_of
from utils.errors import InputError

SPACE = Space(24)


def ball(radius_mm, centre=(0, -18, 18), side=28, voxel_mm=7.0):
    """An image with a bright ball, brighter towards +x, in MNI152 space."""
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = np.array([0, -18, 18]) - voxel_mm * (side - 1) / 2
    points = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1)
    world = points @ affine[:3, :3].T + affine[:3, 3]
    inside = np.linalg.norm(world - centre, axis=-1) < radius_mm
    return Image(np.where(inside, 500 + world[..., 0], 0).astype(np.float32), affine)


def write_heads(root, number, labels=True):
    """Heads in the published layout; returns them."""
    heads = []
    for index in range(number):
        image = ball(80 + index)
        folder = root / f"h{index}"
        mri, label_map = (folder / f"h{index}_{kind}_MNI152.nii.gz" for kind in ("mri", "labels"))
        write_image(mri, image.array, image.affine)
        if labels:
            write_image(label_map, (image.array > 0) * (index + 2), image.affine)
        heads.append(Head(f"h{index}", mri, label_map if labels else None, f"h{index}"))
    return heads


class TestFinding:
    def test_the_published_layout_needs_no_pet(self, tmp_path):
        heads = write_heads(tmp_path, 3)
        heads[1].labels.unlink()
        (tmp_path / "h3").mkdir()
        (tmp_path / "h3" / "h3_FDG_MNI152.nii.gz").write_bytes(b"x")
        cohort = find_heads(tmp_path)
        assert [head.name for head in cohort.subjects] == ["h0", "h1", "h2"]
        assert cohort.subjects[0] == heads[0] and cohort.subjects[1].labels is None
        assert cohort.left_out[0].name == "h3" and "no MRI" in cohort.left_out[0].reason
        assert cohort.summary().startswith("3 subjects with MRI (published layout)")

    def test_bids(self, tmp_path):
        for name in ("sub-1", "sub-2/ses-a"):
            folder = tmp_path / name / "anat"
            folder.mkdir(parents=True)
            stem = name.replace("/", "_")
            for run in (1, 2):
                nib.save(
                    nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)),
                    folder / f"{stem}_run-{run}_T1w.nii",
                )
        (tmp_path / "sub-1" / "anat" / "sub-1_run-2_dseg.nii").write_bytes(b"x")
        cohort = find_heads(tmp_path, run=2)
        assert [head.name for head in cohort.subjects] == ["sub-1", "sub-2_ses-a"]
        assert [head.group for head in cohort.subjects] == ["sub-1", "sub-2"]
        assert cohort.subjects[0].labels.name == "sub-1_run-2_dseg.nii"
        assert cohort.subjects[1].labels is None
        with pytest.raises(InputError, match="none of 2 subjects has an MRI .*several candidates"):
            find_heads(tmp_path)


class TestSpace:
    def test_the_middle_of_the_cube_is_that_of_the_template(self):
        for space in (Space(64, 3.0), Space(128)):
            side = space.affine[0, 0] * space.size
            middle = space.affine @ [*[(space.size - 1) / 2] * 3, 1]
            assert middle[:3] == pytest.approx([0, -18, 18])
        assert side == FIELD_OF_VIEW

    def test_a_target_keeps_its_foreground_and_a_rim(self):
        target = target_of("ball", ball(60), SPACE)
        voxel_mm = SPACE.affine[0, 0]
        volume_mm3 = target.kept.sum() * voxel_mm**3
        assert volume_mm3 == pytest.approx(4 / 3 * np.pi * (60 + RIM_MM) ** 3, rel=0.15)
        assert target.values.max() == 1 and not target.values[~target.kept].any()

    def test_the_packaged_template_lies_there(self):
        pytest.importorskip("nilearn")
        target = read_target(None, SPACE)
        assert 0.2 < target.kept.mean() < 0.5

    def test_what_lies_elsewhere_is_refused(self, tmp_path):
        image = ball(60, centre=(0, 60, 18))
        with pytest.raises(InputError, match="does not lie in MNI152 space"):
            target_of("ball", image, SPACE)
        far = Image(image.array, image.affine + np.array([[0, 0, 0, 900]] * 3 + [[0] * 4]))
        with pytest.raises(InputError, match="nothing of it"):
            target_of("ball", far, SPACE)


class TestPairs:
    def test_items_are_drawn_from_seed_epoch_and_index_alone(self, tmp_path):
        heads = write_heads(tmp_path, 5)
        pairs = HeadPairs(heads, SPACE, cache=Cache("memory"), training=True)
        pairs.prepare("heads")
        again = HeadPairs(heads, SPACE, cache=Cache("disk", tmp_path / "c"), training=True)
        item, other = pairs[2, 3], again[2, 3]
        assert item.keys() == {
            "moving", "fixed", "moving_labels", "fixed_labels", "name", "index"
        }  # fmt: skip
        for key in ("moving", "fixed", "moving_labels", "fixed_labels"):
            assert torch.equal(item[key], other[key]) and item[key].shape == (1, *SPACE.shape)
        assert set(item["moving_labels"].unique().tolist()) == {0, 5}  # of the fourth head
        names = {pairs[epoch, 3]["name"] for epoch in range(20)}
        assert len(names) > 2 and all(name.startswith("h3 onto ") for name in names)
        # Both mirrored alike: the ball is brighter on one side.
        for epoch in range(8):
            item = pairs[epoch, 0]
            sides = [
                item[key][0, :12].sum() > item[key][0, 12:].sum() for key in ("moving", "fixed")
            ]
            assert sides[0] == sides[1]

    def test_some_pairs_are_a_head_and_itself(self, tmp_path):
        pairs = HeadPairs(write_heads(tmp_path, 3), SPACE, cache=Cache("memory"), training=True)
        pairs.prepare("heads")
        same = sum(pairs[epoch, 0]["name"] == "h0 onto h0" for epoch in range(600))
        assert same / 600 == pytest.approx(IDENTITY, abs=0.03)

    def test_validation_takes_the_next_head_unmirrored(self, tmp_path):
        pairs = HeadPairs(write_heads(tmp_path, 3, labels=False), SPACE)
        assert [pairs[0, i]["name"] for i in range(3)] == ["h0 onto h1", "h1 onto h2", "h2 onto h0"]
        assert torch.equal(pairs[0, 1]["moving"], pairs[5, 0]["fixed"])
        assert "moving_labels" not in pairs[0, 0]

    def test_a_target_cuts_the_heads(self, tmp_path):
        target = target_of("ball", ball(55), SPACE)
        pairs = HeadPairs(write_heads(tmp_path, 1), SPACE, target)
        item = pairs[0, 0]
        assert item["name"] == "h0 onto the template" and "fixed_labels" not in item
        assert (item["fixed"][0].numpy() == target.values).all()
        assert not item["moving"][0].numpy()[~target.kept].any()
        assert item["moving"][0].numpy()[target.kept].all()

    def test_one_head_alone_has_nothing_to_be_brought_onto(self, tmp_path):
        with pytest.raises(InputError, match="--onto"):
            HeadPairs(write_heads(tmp_path, 1), SPACE)

    def test_another_grid_or_target_is_prepared_again(self, tmp_path):
        heads, cache = write_heads(tmp_path, 2), Cache("disk", tmp_path / "cache")
        target = target_of("ball", ball(55), SPACE)
        for space, onto in ((SPACE, None), (SPACE, target), (Space(24, 6.0), None)):
            HeadPairs(heads, space, onto, cache).prepare("heads")
        assert len(list(cache.folder.iterdir())) == 6
        HeadPairs(heads, SPACE, None, cache).prepare("heads")
        assert len(list(cache.folder.iterdir())) == 6
