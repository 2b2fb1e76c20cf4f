"""Where a subject's files lie, and what they are made of."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.bids import entities, tracer_problem
from preparation.output import layout
from preparation.output.layout import (
    bids_sidecars,
    name_problems,
    nifti_bytes,
    place_of,
    space_label,
    write_durably,
)
from utils.errors import InputError


def test_published_names():
    place = place_of("033_S_5198", "pairs", "mri", None)
    assert place.folder == Path("033_S_5198") and place.record == Path("033_S_5198.json")
    assert [str(place.mri), str(place.pet)] == [
        "033_S_5198_mri_MNI152.nii.gz",
        "033_S_5198_FDG_MNI152.nii.gz",
    ]


@pytest.mark.parametrize(
    ("name", "space", "template", "folder", "mri", "pet"),
    (
        (
            "033_S_5198", "mri", None, "sub-033S5198", "sub-033S5198_desc-preproc_T1w",
            "sub-033S5198_trc-18FFDG_space-T1w_desc-preproc_pet",
        ),
        (
            "sub-01_ses-M00", "mni", None, "sub-01/ses-M00",
            "sub-01_ses-M00_space-MNI152NLin2009aSym_res-1_desc-preproc_T1w",
            "sub-01_ses-M00_trc-18FFDG_space-MNI152NLin2009aSym_res-1_desc-preproc_pet",
        ),
        (
            "sub-01", "mni", Path("x/tpl-MNI152NLin6Asym_res-02_T1w.nii.gz"), "sub-01",
            "sub-01_space-MNI152NLin6Asym_res-1_desc-preproc_T1w",
            "sub-01_trc-18FFDG_space-MNI152NLin6Asym_res-1_desc-preproc_pet",
        ),
    ),
)  # fmt: skip
def test_bids_names(name, space, template, folder, mri, pet):
    place = place_of(name, "bids", space, template)
    assert place.folder == Path(folder)
    assert (
        place.mri == Path("anat") / f"{mri}.nii.gz" and place.pet == Path("pet") / f"{pet}.nii.gz"
    )


def test_space_label_has_letters_and_digits_only():
    assert space_label(Path("my_head-2mm.nii.gz")) == "myhead2mm"


def test_names_that_would_meet_or_cannot_be(pair):
    named = [replace(pair, name=name) for name in ("a-1", "a1", "b", "qc", "FLAGGED", "../x")]
    problems = name_problems(named, "bids")
    assert sorted(problems) == ["../x", "FLAGGED", "a1", "qc"]
    assert "a-1" in problems["a1"]
    assert sorted(name_problems(named, "pairs")) == ["../x", "FLAGGED", "qc"]


def test_no_subject_lies_inside_another(pair):
    outer, inner = (replace(pair, name=name) for name in ("sub-01", "sub-01_ses-M00"))
    for pairs in ([outer, inner], [inner, outer]):
        problems = name_problems(pairs, "bids")
        assert list(problems) == [inner.name] and "inside those of sub-01" in problems[inner.name]
    assert list(name_problems([outer], "bids", [Path("sub-01/ses-M00")])) == [outer.name]
    assert list(name_problems([inner], "bids", [Path("sub-01")])) == [inner.name]
    assert not name_problems([inner], "bids", [Path("sub-01/ses-M00"), Path("sub-01/ses-M12")])


def test_an_image_comes_back_and_its_bytes_do_not_change(tmp_path, head, head_affine, oblique):
    affine = oblique(head_affine)
    content = nifti_bytes(head, affine, 2)
    assert content == nifti_bytes(head.astype(np.float64), affine, 2)
    (tmp_path / "a.nii.gz").write_bytes(content)
    image = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(image.get_fdata(), head) and image.get_data_dtype() == np.float32
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 2 and np.allclose(form, affine, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(layout.shutil, "disk_usage", lambda path: usage._replace(free=3_000_000))
    with pytest.raises(InputError, match=r"no space left, 3 of 20 MB"):
        write_durably(tmp_path / "new", {Path("a"): bytes(20_000_000)})
    assert not list((tmp_path / "new").iterdir())


def test_another_tracer_stands_in_names_and_sidecars():
    """So that training finds it by --tracer, and never takes it for FDG."""
    place = place_of("sub-01", "bids", "mri", None, "[11C]DASB")
    assert place.pet.name == "sub-01_trc-11CDASB_space-T1w_desc-preproc_pet.nii.gz"
    sources = {"mri": Path("m.nii"), "pet": Path("p.nii")}
    sidecars = bids_sidecars(place, "mri", None, "none", sources, "[11C]DASB")
    pet = next(content for path, content in sidecars.items() if "_pet" in path.name)
    assert pet["TracerName"] == "[11C]DASB"
    assert tracer_problem(entities(place.pet), pet, "DASB") is None
    assert "not FDG" in tracer_problem(entities(place.pet), pet)
