"""What BIDS names, folders and sidecars say."""

import json

import pytest

from data.bids import (
    PET,
    T1W,
    Sidecars,
    correction_problem,
    entities,
    frame_durations,
    images,
    read_json,
    run_number,
    sidecar_of,
    stem,
    tracer,
    tracer_problem,
    visits,
)
from utils.errors import InputError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def add(root):
    """Function that writes a file of the data set: nothing, a text, or fields as JSON."""

    def write(name, content=""):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def pet(root, add):
    """Function (file name) -> the image, alone in the PET folder of sub-1 without sessions."""

    def make(name):
        add(f"sub-1/pet/{name}")
        (visit,) = visits(root / "sub-1")
        (image,) = images(visit, PET)
        return image

    return make


class TestNames:
    @pytest.mark.parametrize(
        "name, labels",
        [
            ("sub-01_trc-FDG_pet.nii.gz", {"sub": "01", "trc": "FDG"}),
            ("sub-01_ses-M00_run-02_T1w.json", {"sub": "01", "ses": "M00", "run": "02"}),
            ("sub-a-b_T1w.nii", {"sub": "a-b"}),
            ("pet.json", {}),
            ("odd_T1w.nii", {}),
        ],
    )
    def test_entities(self, root, name, labels):
        assert entities(root / name) == labels

    def test_stem(self, root):
        names = ["a.nii", "a.nii.gz", "a.b.nii", "a.json", "a.nii.gz.json"]
        assert [stem(root / name) for name in names] == ["a", "a", "a.b", "", ""]
        assert stem(root / "A.NII.GZ") == "A" and stem(root / "a.Nii") == "a"

    @pytest.mark.parametrize("ending", ["json", "JSON", "Json"])
    def test_the_sidecar_of_an_image(self, root, add, ending):
        assert sidecar_of(add("a_pet.NII.GZ")) == root / "a_pet.json"
        add("b_pet.json"), add(f"a_pet.{ending}")
        assert sidecar_of(root / "a_pet.NII.GZ") == root / f"a_pet.{ending}"

    def test_run_numbers(self):
        assert run_number("02") == run_number("2") == run_number(2) == 2
        assert run_number("00") == 0 and run_number(None) is None and run_number("x") == "x"


class TestFolders:
    def test_sessions_and_the_folder_beside_them(self, root, add):
        add("sub-1/ses-M12/anat/x")
        add("sub-1/ses-M6/pet/x")
        add("sub-1/ses-file")
        found = [(visit.session, visit.participant) for visit in visits(root / "sub-1")]
        assert found == [("M6", "sub-1"), ("M12", "sub-1")]
        add("sub-1/pet/x")
        assert [visit.session for visit in visits(root / "sub-1")] == [None, "M6", "M12"]
        add("sub-2/notes.txt")
        assert [visit.folder for visit in visits(root / "sub-2")] == [root / "sub-2"]

    def test_images(self, root, add):
        for name in ("sub-1_run-10_T1w.nii", "sub-1_run-9_T1w.nii.gz", "sub-1_T2w.nii"):
            add(f"sub-1/anat/{name}")
        add("sub-1/anat/._sub-1_T1w.nii")  # what macOS leaves beside a file
        add("sub-1/anat/sub-1_T1w.nii/x")
        (visit,) = visits(root / "sub-1")
        assert [image.run for image in images(visit, T1W)] == [9, 10]
        assert images(visit, PET) == []

    @pytest.mark.parametrize(
        "name, fits",
        [
            ("sub-1_ses-a_T1w.nii", True),
            ("sub-1_T1w.nii", True),
            ("sub-1_ses-b_T1w.nii", False),
            ("sub-2_ses-a_T1w.nii", False),
            ("scan_T1w.nii", False),
        ],
    )
    def test_names_in_the_wrong_folder(self, root, add, name, fits):
        add(f"sub-1/ses-a/anat/{name}")
        (visit,) = visits(root / "sub-1")
        (image,) = images(visit, T1W)
        assert image.fits_folder == fits

    def test_a_session_that_the_folder_lacks(self, pet):
        assert not pet("sub-1_ses-a_pet.nii").fits_folder


class TestSidecars:
    def test_inheritance(self, root, add, pet):
        image = pet("sub-1_trc-FDG_run-01_pet.nii.gz")
        add("pet.json", {"a": "root", "b": "root", "c": "root", "d": "root"})
        add("sub-1/sub-1_pet.json", {"b": "subject", "c": "subject", "d": "subject"})
        add("sub-1/pet/sub-1_pet.json", {"c": "few entities", "d": "few entities"})
        add("sub-1/pet/sub-1_trc-FDG_run-01_pet.json", {"d": "all entities"})
        assert Sidecars(root).fields(image.path) == {
            "a": "root",
            "b": "subject",
            "c": "few entities",
            "d": "all entities",
        }

    @pytest.mark.parametrize(
        "name",
        [
            "sub-2_pet.json",
            "trc-PiB_pet.json",
            "T1w.json",
            "mypet.json",
            "ben_pet.json",
            "._pet.json",
        ],
    )
    def test_what_does_not_hold(self, root, add, pet, name):
        image = pet("sub-1_trc-FDG_pet.nii")
        add(f"sub-1/pet/{name}", {"a": 1})
        assert Sidecars(root).fields(image.path) == {}

    def test_any_case_of_the_endings(self, root, add, pet):
        image = pet("sub-1_pet.NII.GZ")
        add("sub-1/pet/sub-1_pet.JSON", {"a": 1})
        assert Sidecars(root).fields(image.path) == {"a": 1}

    def test_nothing_above_the_data_set(self, root, add, pet):
        image = pet("sub-1_pet.nii")
        add("../pet.json", {"a": 1})
        assert Sidecars(root).fields(image.path) == {}

    @pytest.mark.parametrize(
        "content, words",
        [("{", "not JSON"), ("[]", "not a JSON object"), ("[" * 99999, "not JSON")],
        ids=["cut", "list", "deep"],
    )
    def test_damaged(self, root, add, pet, content, words):
        image = pet("sub-1_pet.nii")
        path = add("pet.json", content)
        for call in (lambda: read_json(path), lambda: Sidecars(root).fields(image.path)):
            with pytest.raises(InputError, match=words) as caught:
                call()
            assert caught.value.source == str(path)

    def test_frame_durations(self):
        assert frame_durations({}) is None
        assert frame_durations({"FrameDuration": [300, 60.5]}) == (300.0, 60.5)
        assert frame_durations({"FrameDuration": 300}) == (300.0,)
        for value in ([300, -1], [0], [float("inf")], ["x"]):
            with pytest.raises(ValueError):
                frame_durations({"FrameDuration": value})


class TestTracers:
    @pytest.mark.parametrize(
        "name, fields, said",
        [
            ("sub-1_trc-18FFDG_pet.nii", {"TracerName": "DASB"}, "18FFDG"),
            ("sub-1_trc-PiB_pet.nii", {"TracerName": "FDG"}, "PiB"),
            ("sub-1_pet.nii", {"TracerName": "DASB"}, "DASB"),
            ("sub-1_acq-static_pet.nii", {"TracerName": "FDG"}, "FDG"),
            ("sub-1_acq-AV45_pet.nii", {"TracerName": "n/a"}, "AV45"),
            ("sub-1_pet.nii", {"TracerName": None}, ""),
            ("sub-1_acq-AV45_pet.nii", {"TracerName": "unknown"}, "AV45"),
            ("sub-1_trc-unknown_pet.nii", {"TracerName": "DASB"}, "DASB"),
            ("sub-1_pet.nii", {"TracerName": "other", "Radiopharmaceutical": "FLT"}, "FLT"),
            ("sub-1_acq-none_pet.nii", {"TracerName": "Not specified"}, ""),
            ("sub-1_pet.nii", {}, ""),
        ],
    )
    def test_the_name_before_the_sidecar(self, root, add, pet, name, fields, said):
        image = pet(name)
        add("pet.json", fields)
        assert tracer(image.labels, Sidecars(root).fields(image.path)) == said

    @pytest.mark.parametrize(
        "fields, problem",
        [
            ({}, None),
            ({"TracerName": "[18F]FDG"}, None),
            ({"TracerName": "DASB"}, "tracer is DASB, not FDG"),
            ({"TracerRadionuclide": "C11"}, "tracer is marked with C11, FDG with F18"),
            ({"TracerRadionuclide": "68Ga"}, "tracer is marked with 68Ga, FDG with F18"),
            ({"TracerRadionuclide": "F-18"}, None),
            ({"TracerRadionuclide": "fluorine"}, None),
            ({"TracerRadionuclide": "carbon"}, "tracer is marked with carbon, FDG with F18"),
            ({"TracerName": "18F", "TracerRadionuclide": "n/a"}, None),
            ({"TracerName": "11C"}, "tracer is 11C, not FDG"),
            ({"TracerName": "unknown", "SeriesDescription": "brain"}, None),
            (
                {"TracerName": "unknown", "SeriesDescription": "[11C]DASB dyn"},
                "tracer is DASB, not FDG",
            ),
            (
                {"TracerName": "unknown", "RadionuclideHalfLife": 1223},
                "tracer is not FDG (half-life 1223 s, fluorine-18 has 6586 s)",
            ),
            ({"tracername": "DASB"}, "tracer is DASB, not FDG"),
            (
                {"TracerName": " ", "TracerRadionuclide": "C-11"},
                "tracer is marked with C-11, FDG with F18",
            ),
        ],
    )
    def test_problems(self, root, add, pet, fields, problem):
        image = pet("sub-1_pet.nii")
        add("pet.json", fields)
        assert tracer_problem(image.labels, Sidecars(root).fields(image.path)) == problem

    @pytest.mark.parametrize(
        "name, fields, word",
        [
            ("sub-1_rec-nacstat_pet.nii", {}, "rec-nacstat"),
            ("sub-1_rec-NAC_pet.nii", {"AttenuationCorrection": "CT"}, "rec-NAC"),
            ("sub-1_acq-noac_pet.nii", {}, "acq-noac"),
            ("sub-1_pet.nii", {"AttenuationCorrection": "NONE"}, "AttenuationCorrection: NONE"),
            ("sub-1_pet.nii", {"AttenuationCorrection": False}, "AttenuationCorrection: False"),
            ("sub-1_pet.nii", {"AttenuationCorrection": "not corrected"}, "not corrected"),
            ("sub-1_pet.nii", {"AttenuationCorrectionMethod": "none"}, "Method: none"),
            ("sub-1_pet.nii", {"attenuationcorrection": "not performed"}, "not performed"),
            ("sub-1_pet.nii", {"AttenuationCorrection": 0}, "AttenuationCorrection: 0"),
            ("sub-1_rec-acstat_pet.nii", {"AttenuationCorrection": "[68Ge]rod source"}, None),
            ("sub-1_rec-recon1_pet.nii", {"AttenuationCorrection": "n/a"}, None),
            ("sub-1_pet.nii", {"AttenuationCorrection": "Nonlinear CT scaling"}, None),
            ("sub-1_pet.nii", {"AttenuationCorrection": True}, None),
            ("sub-1_pet.nii", {}, None),
        ],
    )
    def test_attenuation_correction(self, root, add, pet, name, fields, word):
        image = pet(name)
        add("pet.json", fields)
        problem = correction_problem(image.labels, Sidecars(root).fields(image.path))
        assert (problem is None) == (word is None)
        if word:
            assert "not corrected for attenuation" in problem and word in problem
