"""Tables of pairs and pairs.tsv; `rowNN` in a name counts the known bad inputs of preparation."""

import csv
import datetime
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from data.phantom.dicom_writer import About, transverse, write_series
from preparation.find.table import read_scan_pairs, refuse_inside, write_pairs_tsv
from preparation.read.dicom_header import describe
from preparation.read.scan import load_scan
from preparation.scans import Findings, LeftOutScan, Scan, ScanPair
from tests.helpers.findings import reasons, summary
from tests.helpers.golden import ROOT
from utils.errors import InputError


class TestTableOfPairs:
    @pytest.fixture
    def table(self, touch):
        """Function that writes the table's bytes beside two subjects' files and reads it."""

        def read(content):
            root = touch(*(f"{n}_{kind}.nii" for n in "abc" for kind in ("mri", "pet")))
            path = root / "pairs.csv"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            return read_scan_pairs(path)

        return read

    @pytest.mark.parametrize(
        "content",
        [
            "subject,mri,pet\na,a_mri.nii,a_pet.nii\nb,b_mri.nii,b_pet.nii\n",
            "\ufeffsubject,mri,pet\na,a_mri.nii,a_pet.nii\nb,b_mri.nii,b_pet.nii\n",
            '"subject";"mri";"pet"\r\n "a" ;a_mri.nii; a_pet.nii\r\n\r\nb;b_mri.nii;b_pet.nii;\r\n',
            "Subject\tMRI\tPET\na\ta_mri.nii\ta_pet.nii\nb\tb_mri.nii\tb_pet.nii",
            "pet,subject,mri,\nb_pet.nii,b,b_mri.nii,\n,,,\na_pet.nii,a,a_mri.nii,\n",
        ],
        ids=[
            "plain",
            "row40-bom",
            "row41-semicolons-quotes-blanks",
            "row41-tabs",
            "row41-trailing-commas-order",
        ],
    )
    def test_forms(self, table, content):
        findings = table(content)
        assert summary(findings) == [
            ("a", "a_mri.nii", "a_pet.nii"),
            ("b", "b_mri.nii", "b_pet.nii"),
        ]
        assert findings.left_out == ()

    @pytest.mark.parametrize(
        "content, words",
        [
            (
                "subject,mri,pet\na,a_mri.nii,a_pet.nii\n".encode("utf-16"),
                "not UTF-8 text (at byte 0)",
            ),
            (
                "subject,mri,pet\nJos\xe9,a_mri.nii,a_pet.nii\n".encode("latin-1"),
                "not UTF-8 text (at byte 19)",
            ),
            ("", "empty"),
            (" ,,\n\n", "empty"),
            ("subject,mri,pet\n", "no subjects"),
            ("a,a_mri.nii,a_pet.nii\n", "no column subject"),
        ],
        ids=[
            "row39-utf16",
            "row39-latin1",
            "row41-empty",
            "row41-blank",
            "row41-header-only",
            "no-header",
        ],
    )
    def test_files_that_are_no_table(self, table, content, words):
        with pytest.raises(InputError) as caught:
            table(content)
        assert words in str(caught.value) and "pairs.csv" in str(caught.value)

    @pytest.mark.parametrize(
        "name",
        [
            "../../etc",
            "/abs",
            "a/b",
            "C:\\x",
            "..",
            ".hidden",
            "-rf",
            "x" * 65,
            "a\u202eb",
            "a b",
            "é",
        ],
        ids=lambda name: f"row38-{name[:6].encode('unicode_escape').decode()}",
    )
    def test_names(self, table, name):
        findings = table(f'subject,mri,pet\n"{name}",a_mri.nii,a_pet.nii\nb,b_mri.nii,b_pet.nii\n')
        assert [pair.name for pair in findings.pairs] == ["b"]
        assert "line 2: not a subject name" in reasons(findings, name)[0]

    def test_row38_nul(self, table):
        with pytest.raises(InputError, match="not a text file"):
            table("subject,mri,pet\na\0,a_mri.nii,a_pet.nii\n")

    @pytest.mark.parametrize(
        "line, reason",
        [
            ("a,none.nii,a_pet.nii", "no such file for the MRI"),
            ("a,a_mri.nii,", "no pet"),
            ("a,a_mri.nii", "no pet"),
            ("a,a_mri.nii,a_mri.nii", "MRI and PET are the same image"),
            ("a,a_mri.nii,link.nii", "MRI and PET are the same image"),
            ("a,a_mri.nii,c_pet.nii", "same image as subject c"),
            ("c,a_mri.nii,a_pet.nii", "the subject is also in line 4"),
            ("C,a_mri.nii,a_pet.nii", "the subject is also in line 4"),
            ("a,a_mri.nii,pet.v", "ECAT"),
            ("a,a_mri.nii,pet.zip", "unpack"),
            ("a,a_mri.nii,pet.png", "neither NIfTI nor DICOM"),
            ("a,a_mri.nii,empty", "no files in the PET's folder"),
            ("a,a_pet.nii,sub-1_T1w.nii", "other modality"),
        ],
        ids=[
            "row36-no-file",
            "row36-empty-cell",
            "row36-short-line",
            "row37-mri-is-pet",
            "row37-link",
            "row37-two-subjects",
            "row42-twice",
            "row42-twice-in-case",
            "row52-ecat",
            "row52-zip",
            "not-an-image",
            "row36-empty-folder",
            "row33-names",
        ],
    )
    def test_bad_lines(self, table, touch, line, reason):
        root = touch("pet.v", "pet.zip", "pet.png", "sub-1_T1w.nii")
        (root / "empty").mkdir()
        touch("a_mri.nii")
        (root / "link.nii").symlink_to(root / "a_mri.nii")
        findings = table(f"subject,mri,pet\n{line}\nb,b_mri.nii,b_pet.nii\nc,c_mri.nii,c_pet.nii\n")
        assert "b" in [pair.name for pair in findings.pairs]
        assert reason in reasons(findings, line.split(",")[0])[0]
        assert all(item.is_fault for item in findings.left_out)

    def test_dicom_folders(self, touch):
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        adni = "033_S_5198/MT1__N3m/2013-05-09_10_11_12.0/I7"
        name = "ADNI_033_S_5198_MR_MT1__N3m_Br_20130509101112345_{}_S1_I7.dcm"
        root = touch(
            *(f"{adni}/{name.format(n)}" for n in (1, 2, 10)),
            f"{adni}/info.xml",
            "p/sub/IM1",
            "p/sub/IM2",
        )
        touch("pairs.csv", text=f"subject,mri,pet\nx,{adni},p\n")
        (pair,) = read_scan_pairs(root / "pairs.csv").pairs
        assert [file.name for file in pair.mri.files] == [name.format(n) for n in (1, 2, 10)]
        assert (pair.mri.format, pair.mri.image_id, pair.mri.date) == (
            "dicom",
            "I7",
            datetime.date(2013, 5, 9),
        )
        assert pair.pet.where == root / "p/sub" and pair.days is None
        assert (pair.mri.listed, pair.pet.listed) == (root / adni, root / "p")

    def test_row53_another_tracer(self, touch):
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        wanted, planes = ("a", "b", "c"), transverse(np.ones((4, 4, 1), np.float32), np.eye(4))
        descriptions = (
            "PET Brain",
            "PET Brain",
            "AV45 Coreg, Avg, Standardized Image and Voxel Size",
        )
        for name, description, tracer in zip(
            wanted, descriptions, ("FDG", "Florbetapir", "Solution"), strict=True
        ):
            root = touch(f"{name}.nii", f"{name}/.x")
            about = About(
                "PT", name, description, name, datetime.datetime(2012, 3, 1), tracer=tracer
            )
            write_series([root / name / "1.dcm"], planes, about)
        touch(
            "pairs.csv",
            text="subject,mri,pet\n" + "".join(f"{name},{name}.nii,{name}\n" for name in wanted),
        )
        findings = read_scan_pairs(root / "pairs.csv")
        assert [(pair.name, pair.pet.description) for pair in findings.pairs] == [
            ("a", "PET Brain")
        ]
        assert reasons(findings, "b") == ["line 3: tracer is florbetapir, not FDG"]
        assert reasons(findings, "c") == ["line 4: tracer is florbetapir, not FDG"]
        assert all(item.is_fault for item in findings.left_out)

    def test_no_name_of_the_tracer_is_said(self, touch):
        """In a header or a sidecar; a NIfTI without a sidecar was listed for what it is."""
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        root = touch(
            "a.nii", "a/.x", "b.nii", "b_pet.nii", "c.nii", "c_pet.nii", "d.nii", "d_pet.nii"
        )
        planes = transverse(np.ones((4, 4, 1), np.float32), np.eye(4))
        when = datetime.datetime(2012, 3, 1)
        about = About("PT", "a", "PET Brain", "a", when, tracer="UNKNOWN")
        write_series([root / "a" / "1.dcm"], planes, about)
        touch("b_pet.json", text='{"TracerName": "unknown"}')
        touch("d_pet.json", text='{"TracerName": "unknown", "SeriesDescription": "PiB"}')
        lines = ["subject,mri,pet", "a,a.nii,a", *(f"{n},{n}.nii,{n}_pet.nii" for n in "bcd")]
        touch("pairs.csv", text="\n".join(lines))
        findings = read_scan_pairs(root / "pairs.csv")
        told = {pair.name: "taken for FDG" in " ".join(pair.warnings) for pair in findings.pairs}
        assert told == {"a": True, "b": True, "c": False}
        assert reasons(findings, "d") == ["line 5: tracer is PiB, not FDG"]

    def test_a_slice_that_is_not_downloaded(self, touch):
        """It is not passed over: reading says so."""
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        root = touch("p.nii", "mri/.x")
        planes = transverse(np.ones((4, 4, 3), np.float32), np.eye(4))
        about = About("MR", "a", "T1", "a", datetime.datetime(2012, 3, 1))
        files = [root / "mri" / f"{number}.dcm" for number in range(3)]
        write_series(files, planes, about)
        files[1].rename(root / "mri/.1.dcm.icloud")
        touch("pairs.csv", text="subject,mri,pet\na,mri,p.nii\n")
        (pair,) = read_scan_pairs(root / "pairs.csv").pairs
        assert list(pair.mri.files) == files
        with pytest.raises(InputError, match="1.dcm: not downloaded"):
            load_scan(pair.mri)

    def test_another_tracer_that_is_asked_for(self, touch):
        """What names none is taken, because it was listed; what names another one is not."""
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        planes = transverse(np.ones((4, 4, 1), np.float32), np.eye(4))
        tracers = {"a": "Florbetapir", "b": "Solution", "c": "FDG"}
        for name, said in tracers.items():
            root = touch(f"{name}.nii", f"{name}/.x")
            when = datetime.datetime(2012, 3, 1)
            about = About("PT", name, "PET Brain", name, when, tracer=said)
            write_series([root / name / "1.dcm"], planes, about)
        touch("d.nii", "d_pet.nii", "e.nii", "sub-e_trc-AV45_pet.nii")
        touch("d_pet.json", text='{"TracerName": "DASB"}')
        lines = ["subject,mri,pet", *(f"{name},{name}.nii,{name}" for name in tracers)]
        lines += ["d,d.nii,d_pet.nii", "e,e.nii,sub-e_trc-AV45_pet.nii"]
        touch("pairs.csv", text="\n".join(lines))
        findings = read_scan_pairs(root / "pairs.csv", wanted="AV45")
        assert [pair.name for pair in findings.pairs] == ["a", "b", "e"]
        assert reasons(findings, "c") == ["line 4: tracer is FDG, not AV45"]
        assert reasons(findings, "d") == ["line 5: tracer is DASB, not AV45"]

    @pytest.mark.parametrize("name", ["{}.img", "{}.MR", "{}.PT", "{}.dic", "x.dcm ({})"])
    def test_content_decides_what_is_dicom(self, touch, name):
        """Files of one series under several endings: all are taken, what is none is said."""
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        root = touch("p.nii", "mri/notes.txt", "mri/ADNI.xml", "mri/picture.jpg")
        planes = transverse(np.ones((4, 4, 6), np.float32), np.eye(4))
        about = About("MR", "a", "T1", "a", datetime.datetime(2012, 3, 1))
        files = [root / "mri" / f"{number}.dcm" for number in range(3)]
        files += [root / "mri" / name.format(number) for number in range(3, 6)]
        write_series(files, planes, about)
        touch("pairs.csv", text="subject,mri,pet\na,mri,p.nii\n")
        (pair,) = read_scan_pairs(root / "pairs.csv").pairs
        assert set(pair.mri.files) == set(files)
        assert pair.warnings[0] == (
            "files of the MRI's folder passed over: 1 that are no DICOM, as picture.jpg"
        )
        files[4].write_bytes(b"")  # reading refuses it
        (pair,) = read_scan_pairs(root / "pairs.csv").pairs
        assert files[4] in pair.mri.files

    def test_a_folder_of_everything(self, touch, monkeypatch):
        monkeypatch.setattr("preparation.find.table._MOST_FILES", 3)
        root = touch("p.nii", *(f"mri/{number}.dcm" for number in range(4)))
        touch("pairs.csv", text="subject,mri,pet\na,mri,p.nii\n")
        (reason,) = reasons(read_scan_pairs(root / "pairs.csv"), "a")
        assert "more than 3 files are no one scan; name its own folder" in reason

    def test_dicom_without_preamble_under_any_name(self, touch):
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        root = touch("p.nii", "mri/.x", "mri/also.img")
        planes = transverse(np.ones((4, 4, 3), np.float32), np.eye(4))
        about = About("MR", "a", "T1", "a", datetime.datetime(2012, 3, 1))
        files = [root / "mri" / f"{number}.dat" for number in range(3)]
        write_series(files, planes, about)
        for file in files:
            file.write_bytes(file.read_bytes()[132:])
        touch("pairs.csv", text="subject,mri,pet\na,mri,p.nii\n")
        (pair,) = read_scan_pairs(root / "pairs.csv").pairs
        assert pair.mri.files == tuple(files)

    def test_attenuation_correction(self, touch):
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        planes = transverse(np.ones((4, 4, 3), np.float32), np.eye(4))
        for name in ("a", "b"):
            root = touch(f"{name}.nii", f"{name}/.x")
            about = About("PT", name, "PET Brain", name, datetime.datetime(2012, 3, 1))
            write_series([root / name / f"2{number}" for number in range(3)], planes, about)
            about = replace(about, key=name + "nac", uncorrected=True)
            write_series([root / name / f"1{number}" for number in range(3)], planes, about)
        for file in (root / "b").glob("2*"):
            file.unlink()
        touch("pairs.csv", text="subject,mri,pet\na,a.nii,a\nb,b.nii,b\n")
        findings = read_scan_pairs(root / "pairs.csv")
        assert [pair.name for pair in findings.pairs] == ["a"]  # it has a corrected one
        (reason,) = reasons(findings, "b")
        assert reason == (
            "line 3: not corrected for attenuation (CorrectedImage is NORM, DTIM, DECY, "
            "without ATTN)"
        )

    def test_row54_scans_too_far_apart(self, touch):
        name = "ADNI_001_S_0001_{}_{}_Br_20130509101112345_1_S1_I{}.nii"
        mri = f"001_S_0001/MT1__N3m/2010-01-01_10_20_30.0/I1/{name.format('MR', 'MT1__N3m', 1)}"
        pet = f"001_S_0001/FDG/2012-03-23_10_20_30.0/I2/{name.format('PT', 'FDG', 2)}"
        root = touch(mri, pet, "a.nii", "b.nii")
        touch("pairs.csv", text=f"subject,mri,pet\nx,{mri},{pet}\ny,a.nii,b.nii\n")
        findings = read_scan_pairs(root / "pairs.csv")
        assert [pair.name for pair in findings.pairs] == ["y"]  # nobody knows its days
        assert reasons(findings, "x") == ["line 2: MRI and PET are 812 days apart (limit 365)"]
        assert findings.left_out[0].is_fault
        assert read_scan_pairs(root / "pairs.csv", max_days=812).pairs[0].days == 812

    def test_nifti_folders_and_sidecars(self, touch):
        root = touch(
            "m/a.nii", "m/a.json", "p/1.nii", "p/2.nii", "p.nii.gz", "two/1.nii", "two/2.nii"
        )
        touch("p.json", text='{"FrameDuration": [300, 600]}')
        touch("pairs.csv", text="subject,mri,pet\nx,m,p\ny,p/1.nii,p.nii.gz\nz,two,p.nii.gz\n")
        findings = read_scan_pairs(root / "pairs.csv")
        assert reasons(findings, "z") == ["line 4: 2 NIfTI files for one MRI"]
        assert [len(pair.pet.files) for pair in findings.pairs] == [2, 1]
        assert [pair.pet.frame_durations for pair in findings.pairs] == [None, (300.0, 600.0)]
        touch("p.json", text='{"TracerName": "DASB"}')
        said = reasons(read_scan_pairs(root / "pairs.csv"), "y")
        assert said == ["line 3: tracer is DASB, not FDG"]
        touch("p.json", text='{"FrameDuration": 1' + "0" * 400 + "}")
        assert "FrameDuration is too large" in reasons(read_scan_pairs(root / "pairs.csv"), "y")[0]
        touch("p.json", text="[]")
        assert "sidecar is damaged" in reasons(read_scan_pairs(root / "pairs.csv"), "y")[0]


class TestPairsTsv:
    def rows(self, path):
        return list(
            csv.DictReader(
                path.open(encoding="utf-8", newline=""), delimiter="\t", quoting=csv.QUOTE_NONE
            )
        )

    def test_pairs_and_left_out(self, tmp_path):
        day = datetime.date(2012, 3, 1)
        mri = Scan(
            "s", "MRI", (tmp_path / "m" / "1", tmp_path / "m" / "2"), "dicom", "MT1; N3m", day, "I7"
        )
        pet = Scan(
            "s", "PET", (tmp_path / "p.nii",), "nifti", "Co-registered, Averaged", None, "I8"
        )
        other = LeftOutScan("s", pet.where, "not\tchosen\n", pet)
        pairs = (ScanPair("s", mri, pet, 11, ("one", "two")), ScanPair("t", mri, pet, None))
        write_pairs_tsv(tmp_path / "new" / "pairs.tsv", Findings(pairs, (other,), ("I9",)))
        first, second, left, missing = self.rows(tmp_path / "new" / "pairs.tsv")
        assert (first["subject"], first["status"], first["days"]) == ("s", "paired", "11")
        assert (first["mri_path"], first["mri_id"]) == (str(tmp_path / "m"), "I7")
        assert (first["mri_date"], first["pet_date"], first["reason"]) == (
            "2012-03-01",
            "",
            "one; two",
        )
        assert second["days"] == ""
        assert (left["status"], left["pet_id"], left["reason"]) == ("left out", "I8", "not chosen")
        assert missing["reason"] == "image I9 is not in the download"
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["pairs.tsv"]

    def test_row44_a_name_that_is_no_text(self, tmp_path):
        path = tmp_path / os.fsdecode(b"caf\xe9.nii")
        write_pairs_tsv(tmp_path / "pairs.tsv", Findings((), (LeftOutScan("s", path, "reason"),)))
        (row,) = self.rows(tmp_path / "pairs.tsv")
        assert row["path"] == str(tmp_path / "caf?.nii")

    def test_no_place(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be written"):
            write_pairs_tsv(tmp_path / "file" / "pairs.tsv", Findings((), ()))


def test_finding_needs_nothing_heavy():
    """Preparation runs without PyTorch and loads ANTs only to register."""
    code = (
        "import sys, preparation.find.adni, preparation.find.table, data.phantom.download\n"
        "print(*sorted({'torch', 'monai', 'ants', 'nilearn'} & set(sys.modules)))"
    )
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_row55_output_inside_the_input(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    refuse_inside(tmp_path / "out", tmp_path / "in")
    refuse_inside(tmp_path / "in2", tmp_path / "in")
    for out in ("in", "in/out/deep", "link/out", "out/../in/x"):
        with pytest.raises(InputError, match="lies in the input folder"):
            refuse_inside(tmp_path / out, tmp_path / "in")


class TestNotDownloaded:
    def test_links_pointers_and_pipes_are_no_scans(self, tmp_path):
        (tmp_path / "link.nii.gz").symlink_to(".git/annex/objects/aa/bb/KEY/KEY")
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
        (tmp_path / "pointer.nii.gz").write_text(pointer)
        os.mkfifo(tmp_path / "pipe.nii")
        lines = ["subject,mri,pet", "a,link.nii.gz,p", "b,pointer.nii.gz,p", "c,pipe.nii,p"]
        (tmp_path / "pairs.csv").write_text("\n".join(lines))
        findings = read_scan_pairs(tmp_path / "pairs.csv")
        words = ("datalad get", "git lfs pull", "a pipe, a socket or a device")
        for name, word in zip("abc", words, strict=True):
            assert word in reasons(findings, name)[0]

    def test_a_pipe_in_a_folder_of_dicom_files(self, tmp_path):
        (tmp_path / "series").mkdir()
        os.mkfifo(tmp_path / "series" / "1.dcm")
        assert "no file" in describe(tmp_path / "series" / "1.dcm")
        (tmp_path / "pairs.csv").write_text("subject,mri,pet\na,series,series\n")
        read_scan_pairs(tmp_path / "pairs.csv")  # does not wait for ever


def test_a_pet_without_attenuation_correction_by_its_sidecar(tmp_path):
    for name in ("m.nii", "p.NII"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "p.JSON").write_text('{"AttenuationCorrection": "none"}')
    (tmp_path / "pairs.csv").write_text("subject,mri,pet\na,m.nii,p.NII\n")
    said = reasons(read_scan_pairs(tmp_path / "pairs.csv"), "a")[0]
    assert "not corrected for attenuation (AttenuationCorrection: none)" in said
