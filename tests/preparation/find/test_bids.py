"""Finding and pairing in BIDS data sets; `rowNN` counts the known bad inputs of preparation."""

import json
import shutil

import pytest

from preparation.find.bids import find_bids
from tests.helpers.findings import faults, reasons, summary
from utils.errors import InputError

UNKNOWN = "the days between the scans are not known"


def pairs(*subjects, pet="pet"):
    """The files of subjects with one MRI and one PET."""
    files = []
    for subject in subjects:
        files += [f"{subject}/anat/{subject}_T1w.nii", f"{subject}/pet/{subject}_{pet}.nii"]
    return files


class TestFinding:
    def test_clinica_s_conversion(self, touch):
        start = "sub-ADNI033S5198/ses-M000"
        root = touch(
            f"{start}/anat/sub-ADNI033S5198_ses-M000_T1w.nii.gz",
            f"{start}/pet/sub-ADNI033S5198_ses-M000_trc-18FFDG_rec-coregavg_pet.nii.gz",
            f"{start}/pet/sub-ADNI033S5198_ses-M000_trc-18FAV45_rec-coregavg_pet.nii.gz",
            "derivatives/sub-1/anat/sub-1_T1w.nii.gz",
            "sourcedata/sub-2/anat/sub-2_T1w.nii.gz",
            "code/sub-3/anat/sub-3_T1w.nii.gz",
        )
        findings = find_bids(root)
        (pair,) = findings.pairs
        assert pair.name == "sub-ADNI033S5198_ses-M000" and pair.mri.subject == "sub-ADNI033S5198"
        assert pair.mri.session == pair.pet.session == "M000" and pair.mri.format == "nifti"
        assert reasons(findings, "sub-ADNI033S5198") == ["tracer is 18FAV45, not FDG"]
        assert not any(item.is_fault for item in findings.left_out)

    def test_without_attenuation_correction(self, touch):
        root = touch(*pairs("sub-1", pet="rec-nacstat_pet"), *pairs("sub-2", pet="rec-nac_pet"))
        touch(*pairs("sub-1", pet="rec-acstat_pet"))
        findings = find_bids(root)
        assert summary(findings) == [("sub-1", "sub-1_T1w.nii", "sub-1_rec-acstat_pet.nii")]
        assert "PET is not corrected for attenuation (rec-nacstat)" in reasons(findings, "sub-1")
        assert "PET is not corrected for attenuation (rec-nac)" in reasons(findings, "sub-2")

    def test_another_tracer_that_is_asked_for(self, touch):
        root = touch(*pairs("sub-1", pet="trc-DASB_pet"), *pairs("sub-1", pet="trc-FDG_pet"))
        touch(*pairs("sub-2"))
        findings = find_bids(root, wanted="[11C]DASB")
        assert summary(findings) == [("sub-1", "sub-1_T1w.nii", "sub-1_trc-DASB_pet.nii")]
        assert not findings.pairs[0].warnings or "taken for" not in findings.pairs[0].warnings[0]
        assert "tracer is not named" in " ".join(reasons(findings, "sub-2"))

    def test_not_downloaded(self, touch):
        root = touch(*pairs("sub-1"), *pairs("sub-2"))
        file = root / "sub-2/anat/sub-2_T1w.nii"
        file.unlink()
        file.symlink_to("../../.git/annex/objects/aa/bb/KEY/KEY")
        findings = find_bids(root)
        assert [pair.name for pair in findings.pairs] == ["sub-1"]
        said = [item.reason for item in findings.left_out if item.path == file and item.is_fault]
        assert len(said) == 1 and "not downloaded" in said[0] and "datalad get" in said[0]

    def test_parts_that_are_not_downloaded(self, touch):
        root = touch(*pairs("sub-1"), *pairs("sub-2"))
        shutil.rmtree(root / "sub-2/pet")
        (root / "sub-2/pet").mkdir()
        (root / ".gitmodules").write_text('[submodule "a"]\n  path = sub-2/pet\n')
        findings = find_bids(root)
        assert [pair.name for pair in findings.pairs] == ["sub-1"]
        (said,) = [item for item in findings.left_out if item.path == root / "sub-2/pet"]
        assert said.is_fault and said.reason.startswith("not downloaded")

    def test_lowest_run_without_rec(self, touch):
        names = ("rec-norm_T1w", "run-02_T1w", "run-01_T1w", "acq-x_run-01_rec-norm_T1w")
        root = touch(
            *(f"sub-1/anat/sub-1_{name}.nii.gz" for name in names),
            "sub-1/pet/sub-1_trc-FDG_pet.nii",
        )
        assert summary(find_bids(root)) == [
            ("sub-1", "sub-1_run-01_T1w.nii.gz", "sub-1_trc-FDG_pet.nii")
        ]
        chosen = find_bids(root, bids_filter={"t1w": {"run": "02", "reconstruction": None}})
        assert chosen.pairs[0].mri.files[0].name == "sub-1_run-02_T1w.nii.gz"
        assert "does not match --bids-filter" in reasons(chosen, "sub-1")

    def test_one_session_before_two_then_dates_then_numbers(self, touch):
        for subject, mris, pets in (
            ("a", "06", "06"),
            ("b", "0", "6"),
            ("b", "12", ""),
            ("c", "0", "5"),
            ("c", "9", ""),
        ):
            for sessions, kind, ending in ((mris, "anat", "T1w"), (pets, "pet", "trc-FDG_pet")):
                marks = [sessions] if len(sessions) > 1 and subject != "a" else list(sessions)
                for mark in marks:
                    where = f"sub-{subject}/ses-M{mark}"
                    root = touch(f"{where}/{kind}/sub-{subject}_ses-M{mark}_{ending}.nii")
        table = (
            "filename\tacq_time\n"
            "anat/{0}_T1w.nii\t{1}T10:00:00\n"
            "pet/{0}_trc-FDG_pet.nii\t{1}T11:00:00\n"
        )
        for mark, day in (("0", "2012-05-01"), ("6", "2012-06-20"), ("12", "2012-06-01")):
            touch(
                f"sub-b/ses-M{mark}/sub-b_ses-M{mark}_scans.tsv",
                text=table.format(f"sub-b_ses-M{mark}", day),
            )
        found = {
            pair.name: (pair.mri.session, pair.pet.session, pair.days)
            for pair in find_bids(root).pairs
        }
        assert found == {
            "sub-a_ses-M0": ("M0", "M0", None),
            "sub-b_ses-M12": ("M12", "M6", 19),
            "sub-c_ses-M9": ("M9", "M5", None),
        }

    def test_sidecars_are_inherited(self, touch):
        root = touch(
            *(
                f"sub-{n}/{kind}"
                for n in (1, 2)
                for kind in (f"anat/sub-{n}_T1w.nii", f"pet/sub-{n}_pet.nii")
            )
        )
        touch("pet.json", text=json.dumps({"TracerName": "FDG", "FrameDuration": [300, 600]}))
        touch("sub-2/pet/sub-2_pet.json", text=json.dumps({"TracerName": "Florbetapir"}))
        findings = find_bids(root)
        assert [pair.pet.frame_durations for pair in findings.pairs] == [(300.0, 600.0)]
        assert not any("tracer" in line for line in findings.pairs[0].warnings)
        assert "tracer is Florbetapir, not FDG" in reasons(findings, "sub-2")
        touch("sub-1/pet/sub-1_pet.json", text='{"FrameDuration": [300, -1]}')
        assert "its sidecar is damaged" in " ".join(reasons(find_bids(root), "sub-1"))
        assert [item.is_fault for item in find_bids(root).left_out if "damaged" in item.reason] == [
            True
        ]
        touch("sub-1/pet/sub-1_pet.json", text="{")
        assert "not JSON" in " ".join(reasons(find_bids(root), "sub-1"))

    def test_one_reconstruction_for_all(self, touch):
        for n, recordings in (
            (1, ("coregavg", "coregiso")),
            (2, ("coregiso",)),
            (3, ("coregavg", "coregiso")),
        ):
            root = touch(f"sub-{n}/anat/sub-{n}_T1w.nii")
            touch(*(f"sub-{n}/pet/sub-{n}_trc-FDG_rec-{rec}_pet.nii" for rec in recordings))
        findings = find_bids(root)
        assert {pair.pet.files[0].name.split("_")[2] for pair in findings.pairs} == {"rec-coregiso"}
        assert len(findings.pairs) == 3 and "rec-coregiso" in findings.notes[0]
        chosen = find_bids(root, bids_filter={"pet": {"reconstruction": "coregavg"}})
        assert [pair.name for pair in chosen.pairs] == ["sub-1", "sub-3"]

    def test_row35_subjects_that_differ_in_case(self, touch):
        root = touch(
            *(
                f"sub-{n}/{kind}"
                for n in "aAb"
                for kind in (f"anat/sub-{n}_T1w.nii", f"pet/sub-{n}_pet.nii")
            )
        )
        findings = find_bids(root)
        assert [pair.name for pair in findings.pairs] == ["sub-b"]
        assert "sub-A differ in case" in reasons(findings, "sub-a")[0]
        assert all(item.is_fault for item in findings.left_out)

    def test_row36_missing_modality(self, touch):
        root = touch(
            "sub-1/anat/sub-1_T1w.nii",
            "sub-2/pet/sub-2_pet.nii",
            "sub-3/x",
            "sub-4/anat/sub-5_T1w.nii",
        )
        findings = find_bids(root)
        assert findings.pairs == ()
        assert "no FDG image" in reasons(findings, "sub-1") and "no T1 MRI" in reasons(
            findings, "sub-2"
        )
        assert reasons(findings, "sub-3") == ["no T1 MRI and no FDG image"]
        assert "its name does not fit its folder" in reasons(findings, "sub-4")
        faults = [item.subject for item in findings.left_out if item.is_fault]
        assert faults == [
            "sub-1",
            "sub-2",
            "sub-3",
            "sub-4",
            "sub-4",
        ]  # the subjects, and the wrong name

    def test_refusals(self, touch, tmp_path):
        with pytest.raises(InputError, match="no such folder"):
            find_bids(tmp_path / "none")
        root = touch("derivatives/sub-1/anat/sub-1_T1w.nii.gz")
        with pytest.raises(InputError, match="no subject"):
            find_bids(root)
        touch("sub-1/anat/sub-1_T1w.nii")
        for content in ({"bold": {}}, {"pet": {"run": [1]}}, {"pet": "x"}):
            with pytest.raises(InputError, match="bids-filter"):
                find_bids(root, bids_filter=content)


class TestTracers:
    @pytest.mark.parametrize(
        "name", ["DASB", "Florbetapir", "2-deoxy-2-[18F]fluoro-D-galactose", "Solution"]
    )
    def test_another_tracer_in_the_sidecar(self, touch, name):
        root = touch(*pairs("sub-1"))
        touch("sub-1/pet/sub-1_pet.json", text=json.dumps({"TracerName": name}))
        findings = find_bids(root)
        assert findings.pairs == ()
        assert f"tracer is {name}, not FDG" in reasons(findings, "sub-1")

    @pytest.mark.parametrize(
        "name",
        [
            "2-deoxy-2-[18F]fluoro-D-glucose",
            "18F-fluoro-deoxy-glucose",
            "[F-18]-2-fluoro-2-deoxy-D-glucose",
            "Fludeoxyglucose",
            "FDG",
            "18FFDG",
        ],
    )
    def test_fdg_by_its_names(self, touch, name):
        root = touch(*pairs("sub-1"))
        touch("pet.json", text=json.dumps({"TracerName": name}))
        (pair,) = find_bids(root).pairs
        assert pair.warnings == ("no usable date for the MRI and PET: " + UNKNOWN,)

    def test_no_name_is_said(self, touch):
        root = touch(*pairs("sub-1", "sub-2"))
        touch("sub-2/pet/sub-2_pet.json", text=json.dumps({"TracerRadionuclide": "C11"}))
        findings = find_bids(root)
        (pair,) = findings.pairs
        assert pair.name == "sub-1"
        assert "the PET's tracer is not named, taken for FDG" in pair.warnings
        assert "tracer is marked with C11, FDG with F18" in reasons(findings, "sub-2")

    def test_the_label_of_old_data_sets(self, touch):
        root = touch(*pairs("sub-1", pet="acq-FDG_pet"), *pairs("sub-2", pet="acq-AV45_pet"))
        findings = find_bids(root)
        assert [pair.name for pair in findings.pairs] == ["sub-1"]
        assert "tracer is AV45, not FDG" in reasons(findings, "sub-2")


def test_a_filter_compares_runs_as_numbers(touch):
    root = touch(*pairs("sub-1", pet="run-01_pet"), "sub-1/pet/sub-1_run-02_pet.nii")
    for run in ("2", "02", 2):
        (pair,) = find_bids(root, bids_filter={"pet": {"run": run}}).pairs
        assert pair.pet.files[0].name == "sub-1_run-02_pet.nii"


def test_a_folder_that_cannot_be_read_is_a_fault(touch, monkeypatch):
    root = touch(*pairs("sub-1", "sub-2"))
    listing = type(root).iterdir

    def denied(folder):
        if folder == root / "sub-1" / "pet":
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(type(root), "iterdir", denied)
    findings = find_bids(root)
    assert [pair.name for pair in findings.pairs] == ["sub-2"]
    assert ("sub-1", "cannot be read (Permission denied)") in faults(findings)
