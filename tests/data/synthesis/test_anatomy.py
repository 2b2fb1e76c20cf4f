"""Label maps from a folder, and procedural heads."""

import nibabel as nib
import numpy as np
import pytest
import torch

from data.synthesis.anatomy import _read_label_map, procedural_heads, read_label_maps
from data.synthesis.tissues import NUMBERS
from tests.helpers.golden import shared_file
from utils.errors import InputError


def test_maps_are_read_in_one_orientation_and_cropped(label_maps):
    first, second = read_label_maps(label_maps)
    assert torch.equal(first.tissues, second.tissues)
    assert first.name == "head-1" and first.voxel_mm == (3.0, 3.0, 3.0)
    assert first.tissues.dtype == torch.uint8
    sides = np.array(first.tissues.shape)
    assert (sides < 64 + 1).all() and (sides >= 56).all()
    middle = tuple(int(side) for side in np.round(first.centre))
    assert first.tissues[middle] == NUMBERS["white matter"]


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((8, 8, 8), np.int16), "no brain"),
        (np.zeros((8, 8, 8, 2), np.int16), "4 axes"),
        (np.full((8, 8, 8), 0.5, np.float32), "no labels"),
        (np.full((8, 8, 8), -3, np.int16), "no labels"),
        (np.full((8, 8, 8), np.nan, np.float32), "no labels"),
        (np.full((8, 8, 8), 10**6, np.int32), "1000000"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path, array, what):
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "map.nii.gz")
    with pytest.raises(InputError, match=what):
        read_label_maps(tmp_path)


def test_a_folder_without_maps_is_refused(tmp_path):
    with pytest.raises(InputError, match="no label map"):
        read_label_maps(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_label_maps(tmp_path / "none")
    (tmp_path / "map.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        read_label_maps(tmp_path)


def test_procedural_heads_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr("data.synthesis.anatomy.HEAD_VOXEL_MM", 6.0)
    made = procedural_heads(2, 5, tmp_path)
    assert not torch.equal(made[0].tissues, made[1].tissues)
    monkeypatch.setattr("data.phantom.many.make_subject", lambda *_: pytest.fail("made again"))
    again = procedural_heads(2, 5, tmp_path)
    for ours, theirs in zip(again, made, strict=True):
        assert torch.equal(ours.tissues, theirs.tissues)
    assert (made[0].tissues == NUMBERS["cortex"]).any()


def test_a_real_map():
    folder = shared_file("data", "anatomy")
    path = sorted(folder.glob("*.nii.gz"))[0]
    labels = np.asarray(nib.load(path).dataobj)
    anatomy = _read_label_map(path)
    cortex = int((anatomy.tissues == NUMBERS["cortex"]).sum())
    assert cortex == np.isin(labels, (3, 42)).sum()
