"""Finding and pairing in an ADNI download; `rowNN` counts the known bad inputs of preparation."""

import datetime
import os

import numpy as np
import pytest

from data.phantom.dicom_writer import About, transverse, write_series
from preparation.find.adni import find_adni
from tests.helpers.adni_tables import CLASSIC
from tests.helpers.findings import faults, reasons
from utils.errors import InputError

UNIFORM = "Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_Resolution"
UNIFORM_6MM = "Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_6mm_Res"
AVERAGED, DYNAMIC = "Co-registered,_Averaged", "Co-registered_Dynamic"
N3M, MPRAGE = "MT1__N3m", "Accelerated_Sagittal_MPRAGE"


@pytest.fixture
def add(tmp_path):
    """Function that adds one image to the download in tmp_path / "ADNI", for its first file."""

    def make(
        subject,
        description,
        image,
        date="2012-03-01",
        modality=None,
        files=1,
        suffix="nii",
        named=True,
    ):
        modality = modality or ("PT" if "reg" in description or "PET" in description else "MR")
        folder = tmp_path / "ADNI" / subject / description / f"{date}_10_20_30.0" / f"I{image}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            about = f"{subject}_{modality}_{description}"
            numbers = f"{number + 1}_S{image // 10}_I{image}"
            name = f"ADNI_{about}_Br_20130509101112345_{numbers}"
            file = folder / (f"{name}.{suffix}" if named else f"{number + 1}.{suffix}")
            file.write_bytes(os.fsencode(file))  # every image another one
        return next(iter(sorted(folder.iterdir())))

    return make


@pytest.fixture
def download(tmp_path):
    return tmp_path / "ADNI"


def ids(findings):
    return [(pair.mri.image_id, pair.pet.image_id) for pair in findings.pairs]


def reason_of(findings, image):
    return next(
        item.reason for item in findings.left_out if item.scan and item.scan.image_id == image
    )


def pet_file(path, tracer="FDG -- fluorodeoxyglucose", modality="PT", description="", **extra):
    """A single DICOM plane."""
    pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
    when = datetime.datetime(2012, 3, 1)
    planes = transverse(np.ones((4, 4, 1), np.float32), np.eye(4))
    about = About(modality, "010_S_0001", description, str(path), when, tracer=tracer, extra=extra)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_series([path], planes, about)
    return path


class TestFinding:
    def test_ids_dates_and_files(self, add, download):
        add("033_S_5198", N3M, 101, "2013-05-09", files=12, suffix="dcm")
        add("033_S_5198", UNIFORM, 102, "2013-05-20")
        findings = find_adni(download)
        (pair,) = findings.pairs
        assert (pair.name, pair.days, pair.warnings) == ("033_S_5198", 11, ())
        assert (pair.mri.format, pair.mri.date, pair.mri.description) == (
            "dicom",
            datetime.date(2013, 5, 9),
            N3M,
        )
        assert [int(file.stem.split("_")[-3]) for file in pair.mri.files] == list(range(1, 13))
        assert pair.mri.where == pair.mri.files[0].parent and pair.pet.where == pair.pet.files[0]
        assert (
            findings.left_out == () and find_adni(download / "033_S_5198").pairs == findings.pairs
        )

    def test_the_id_in_the_name_wins(self, add, download):
        file = add("033_S_5198", N3M, 101)
        file.parent.rename(file.parent.with_name("S55"))
        mixed = add("033_S_5198", UNIFORM, 102)
        other = mixed.with_name(mixed.name.replace("_I102", "_I103").replace(UNIFORM, AVERAGED))
        other.write_bytes(b"other")
        findings = find_adni(download)
        assert ids(findings) == [("I101", "I102")]
        assert "another processing version" in reason_of(findings, "I103")

    def test_adni_4_names_take_the_folder_s_id(self, add, download):
        for description, image in ((MPRAGE, 8), (UNIFORM_6MM, 9)):
            file = add("100_S_10029", description, image)
            file.rename(file.with_name(file.name.replace(f"_S{image // 10}_I{image}", "")))
        assert ids(find_adni(download)) == [("I8", "I9")]

    def test_six_frames_in_one_folder(self, add, download):
        add("033_S_5198", N3M, 101)
        add("033_S_5198", "ADNI_Brain_PET__Raw", 102, files=6)
        assert len(find_adni(download).pairs[0].pet.files) == 6
        add("033_S_5199", N3M, 103, files=2)
        assert "2 NIfTI files for one MRI" in reasons(find_adni(download), "033_S_5199")

    def test_dicom_without_descriptions(self, add, download):
        add("010_S_0001", N3M, 101)
        folder = download / "010_S_0001" / "Brain" / "2012-03-05_10_20_30.0" / "I102"
        pet_file(folder / "IM0001", description="FDG brain", modality="PT")
        pet_file(folder.parent / "I103" / "IM0001", tracer="Florbetaben")
        (folder.parent / "I104").mkdir()
        (folder.parent / "I104" / "IM0001").write_bytes(b"no DICOM file" * 20)
        findings = find_adni(download)
        assert ids(findings) == [("I101", "I102")]
        assert reason_of(findings, "I103") == "tracer is florbetaben, not FDG"
        assert "IM0001: not a DICOM image" in reasons(findings, "010_S_0001")

    def test_a_series_in_two_folders_and_a_copy(self, add, download, tmp_path):
        first = add("033_S_5198", N3M, 101, files=4, suffix="dcm")
        other = tmp_path / "ADNI" / "part 2" / first.parent.relative_to(download)
        other.mkdir(parents=True)
        last = sorted(first.parent.iterdir())[-1]
        last.rename(other / last.name)
        add("033_S_5198", UNIFORM, 102)
        copy = add("033_S_5198", UNIFORM, 102, "2012-03-02")
        findings = find_adni(download)
        assert len(findings.pairs[0].mri.files) == 4
        assert [item.path for item in findings.left_out] == [copy]
        assert "the same image as" in findings.left_out[0].reason

    def test_the_walk_opens_no_file(self, add, download, monkeypatch):
        for image in range(101, 121):
            add("033_S_5198", MPRAGE, image, files=5, suffix="dcm")
        add("033_S_5198", UNIFORM, 200)
        opened = []
        monkeypatch.setattr("preparation.find.adni.describe", lambda path: opened.append(path))
        assert len(find_adni(download).pairs) == 1 and opened == []

    def test_nothing_there(self, download, tmp_path):
        with pytest.raises(InputError, match="no such folder"):
            find_adni(download)
        (download / "x").mkdir(parents=True)
        (download / "x" / "notes.txt").write_text("")
        with pytest.raises(InputError, match="no ADNI images"):
            find_adni(download)
        with pytest.raises(InputError, match="regular expression"):
            find_adni(download, pet_description="(")


class TestPairing:
    def test_nearest_date_then_preference_then_higher_id(self, add, download):
        add("001_S_0001", MPRAGE, 101, "2012-03-01")
        add("001_S_0001", "MPR__GradWarp__B1_Correction__N3__Scaled", 102, "2012-01-01")
        add("001_S_0001", UNIFORM, 103, "2012-03-11")
        add("001_S_0002", MPRAGE, 111)
        add("001_S_0002", N3M, 112)
        add("001_S_0002", UNIFORM, 113)
        add("001_S_0003", N3M, 121)
        add("001_S_0003", N3M, 125, "2012-03-01")
        add("001_S_0003", UNIFORM, 123)
        findings = find_adni(download)
        assert ids(findings) == [("I101", "I103"), ("I112", "I113"), ("I125", "I123")]
        assert reason_of(findings, "I121") == "I125 is taken for this subject" and not faults(
            findings
        )

    @pytest.mark.parametrize(
        "worst", ["MPRAGE_REPEAT", "MPR-R__GradWarp__N3", "HS_Sagittal_MPRAGE_ND"]
    )
    def test_repeats_only_when_there_is_nothing_else(self, add, download, worst):
        add("001_S_0001", worst, 101, "2012-03-01")
        add("001_S_0001", UNIFORM, 102, "2012-03-01")
        assert ids(find_adni(download)) == [("I101", "I102")]
        add("001_S_0001", MPRAGE, 103, "2012-05-01")
        assert ids(find_adni(download)) == [("I103", "I102")]

    def test_one_pet_version_for_all(self, add, download):
        for subject, versions in enumerate(
            ((UNIFORM, UNIFORM_6MM), (UNIFORM,), (UNIFORM, AVERAGED), (UNIFORM_6MM,))
        ):
            add(f"001_S_000{subject}", N3M, 10 * subject)
            for number, version in enumerate(versions):
                add(f"001_S_000{subject}", version, 10 * subject + number + 1)
        findings = find_adni(download)
        assert {pair.pet.description for pair in findings.pairs} == {UNIFORM} and len(
            findings.pairs
        ) == 3
        assert reasons(findings, "001_S_0003").count("no FDG image") == 1
        assert any("PET version: uniform resolution" in note for note in findings.notes)
        chosen = find_adni(download, pet_description="Uniform_6mm")
        assert {pair.pet.description for pair in chosen.pairs} == {UNIFORM_6MM} and len(
            chosen.pairs
        ) == 2
        mixed = find_adni(download, pet_description="Uniform")
        assert len(mixed.pairs) == 4 and "different smoothness" in mixed.notes[0]

    def test_a_dynamic_pet_stands_in_for_its_average(self, add, download):
        for subject, version in (("001_S_0001", AVERAGED), ("001_S_0002", DYNAMIC)):
            add(subject, N3M, int(subject[-1]) * 10)
            add(subject, version, int(subject[-1]) * 10 + 1)
        add("001_S_0001", DYNAMIC, 15)
        assert ids(find_adni(download)) == [("I10", "I11"), ("I20", "I21")]

    def test_mri_description(self, add, download):
        add("001_S_0001", N3M, 101)
        add("001_S_0001", "Sagittal_3D_FLAIR", 102)
        add("001_S_0001", UNIFORM, 103)
        assert ids(find_adni(download, mri_description="FLAIR")) == [("I102", "I103")]

    def test_withdrawn_subjects_are_said(self, add, download):
        for subject in ("381_S_10012", "381_S_0012"):
            add(subject, N3M, 101 + len(subject))
            add(subject, UNIFORM, 201 + len(subject))
        warnings = {pair.name: pair.warnings for pair in find_adni(download).pairs}
        assert "withdrew" in warnings["381_S_10012"][0] and not warnings["381_S_0012"]


class TestBadInputs:
    def test_row33_swapped_modalities(self, add, download):
        add("001_S_0001", UNIFORM, 101, modality="MR")
        add("001_S_0001", N3M, 102, modality="PT")
        findings = find_adni(download)
        for image in ("I101", "I102"):
            assert "file looks like the other modality" in reason_of(findings, image)

    def test_row35_subjects_that_differ_in_case_are_one(self, add, download):
        add("001_S_0001", N3M, 101)
        add("001_s_0001", MPRAGE, 102)
        add("001_s_0001", UNIFORM, 103)
        findings = find_adni(download)
        assert [pair.name for pair in findings.pairs] == ["001_S_0001"]
        assert reason_of(findings, "I102") == "I101 is taken for this subject"

    @pytest.mark.parametrize(
        "descriptions, reason",
        [
            ((N3M,), "no FDG image"),
            ((UNIFORM,), "no T1 MRI"),
            ((), "no T1 MRI and no FDG image"),
            ((N3M, f"AV45_{UNIFORM}"), "no FDG image"),
        ],
        ids=["row36-pet", "row36-mri", "row36-both", "row36-tracer"],
    )
    def test_missing_modalities(self, add, download, descriptions, reason):
        (download / "001_S_0001").mkdir(parents=True)
        for number, description in enumerate(descriptions):
            add("001_S_0001", description, number + 1)
        add("001_S_0002", N3M, 11)
        add("001_S_0002", UNIFORM, 12)
        findings = find_adni(download)
        assert [pair.name for pair in findings.pairs] == ["001_S_0002"]
        assert reason in reasons(findings, "001_S_0001")
        assert ("the folder is empty" in reasons(findings, "001_S_0001")) == (not descriptions)
        # Once for the subject, not for each of its scans, and not for another tracer.
        empty = {("001_S_0001", "the folder is empty")} if not descriptions else set()
        assert faults(findings) == {("001_S_0001", reason)} | empty

    def test_row37_one_image_for_two_subjects(self, add, download):
        for subject in (1, 2, 3):
            add(f"001_S_000{subject}", N3M, 10 * subject)
            pet = add(f"001_S_000{subject}", UNIFORM, 10 * subject + 1)
            # Equal sizes and beginnings alone do not make one image: the background of two PETs can
            # be equal.
            pet.write_bytes(b"0" * (1 << 20) + (b"a" if subject < 3 else b"b"))
        findings = find_adni(download)
        assert [pair.name for pair in findings.pairs] == ["001_S_0003"]
        assert reasons(findings, "001_S_0001") == ["same image as subject 001_S_0002"]
        assert reasons(findings, "001_S_0002") == ["same image as subject 001_S_0001"]
        assert {subject for subject, _ in faults(findings)} == {"001_S_0001", "001_S_0002"}

    def test_row43_loops_and_locked_folders(self, add, download, monkeypatch):
        add("001_S_0001", N3M, 101)
        locked = add("001_S_0001", UNIFORM, 102).parent
        (download / "001_S_0001" / "loop").symlink_to(download)
        assert ids(find_adni(download)) == [("I101", "I102")]
        assert "a link to a folder, which is not followed" in reasons(
            find_adni(download), "001_S_0001"
        )
        assert not faults(find_adni(download))
        real = os.scandir

        def scandir(path):
            if os.fspath(path) == os.fspath(locked):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        findings = find_adni(download)
        assert faults(findings) == {
            ("001_S_0001", reason) for reason in ("permission denied", "no FDG image")
        }

    @pytest.mark.parametrize(
        "file, reason",
        [
            (
                "ADNI_001_S_0002_PET_Em_Br_20130509101112345_1_S1_I78559.v",
                "ECAT/Interfile not supported, download",
            ),
            ("scan.v", "ECAT/Interfile not supported, download"),
            ("scan.i.hdr", "ECAT/Interfile not supported, download"),
            ("scan.hdr", "Analyze"),
            ("I78559.zip", "unpack it first"),
            ("I78559.tar.gz", "unpack it first"),
            ("DICOMDIR", "an index without images"),
        ],
        ids=lambda value: f"row52-{value.split('.', 1)[-1][:9]}",
    )
    def test_other_formats(self, add, download, file, reason):
        path = download / "001_S_0002" / "Brain" / "2012-03-01_10_20_30.0" / "I78559" / file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        findings = find_adni(download)  # nothing else there
        assert findings.pairs == ()
        assert any(reason in line for _, line in faults(findings))
        add("001_S_0001", N3M, 101)
        add("001_S_0001", UNIFORM, 102)
        assert len(find_adni(download).pairs) == 1

    @pytest.mark.parametrize(
        "content, reason",
        [(b"MATRIX72v", "ECAT"), (b"PK\3\4", "unpack"), (b"", "empty"), (b"<html>", "web page")],
        ids=["row52-ecat-inside", "row52-zip-inside", "row52-empty", "row52-web-page"],
    )
    def test_formats_by_content(self, download, content, reason):
        path = download / "001_S_0002" / "Brain" / "2012-03-01_10_20_30.0" / "I7" / "0001.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        assert reason in reasons(find_adni(download), "001_S_0002")[0]
        assert reason in next(
            iter(sorted(line for _, line in faults(find_adni(download)) if "no T1" not in line))
        )

    @pytest.mark.parametrize(
        "content, reason", [(b"", "file is empty"), (b"damaged" * 99, "not a DICOM image")]
    )
    def test_a_pet_whose_first_file_is_damaged(self, add, download, content, reason):
        pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")
        add("001_S_0001", N3M, 101)
        first = add("001_S_0001", UNIFORM, 102, suffix="dcm")
        first.write_bytes(content)
        findings = find_adni(download)
        assert ("001_S_0001", f"{first.name}: {reason}") in faults(findings)
        assert (
            next(item.path for item in findings.left_out if item.is_fault and item.path)
            == first.parent
        )

    def test_row53_another_tracer_in_the_header(self, add, download):
        for subject, tracer, half_life in (
            (1, "Florbetapir", 6586.2),
            (2, "Solution", 1223),
            (3, "Solution", 6586),
        ):
            add(f"001_S_000{subject}", N3M, 10 * subject)
            pet = add(f"001_S_000{subject}", AVERAGED, 10 * subject + 1, suffix="dcm")
            pet_file(pet, tracer)
            import pydicom

            header = pydicom.dcmread(pet)
            header.RadiopharmaceuticalInformationSequence[0].RadionuclideHalfLife = str(half_life)
            header.save_as(pet)
        findings = find_adni(download)
        assert ids(findings) == [("I30", "I31")]
        assert reason_of(findings, "I11") == "tracer is florbetapir, not FDG"
        assert "half-life 1223 s" in reason_of(findings, "I21")
        assert {reason for _, reason in faults(findings)} == {"no FDG image"}

    def test_a_tracer_that_is_asked_for(self, add, download):
        """By description or by header; what names none is none of it."""
        named = {1: ("AV45_" + UNIFORM, None), 2: ("PET_Brain", "Florbetapir"), 3: (UNIFORM, None)}
        named[4] = "PET_Brain", "Solution"
        for subject, (description, tracer) in named.items():
            add(f"001_S_000{subject}", N3M, 10 * subject)
            suffix = "dcm" if tracer else "nii"
            pet = add(f"001_S_000{subject}", description, 10 * subject + 1, suffix=suffix)
            if tracer:
                pet_file(pet, tracer)
        findings = find_adni(download, pet_description=".", wanted="florbetapir")
        assert ids(findings) == [("I10", "I11"), ("I20", "I21")]
        assert reason_of(findings, "I31") == "tracer is FDG, not florbetapir"
        assert reason_of(findings, "I41") == "tracer is not named, not known to be florbetapir"
        assert {reason for _, reason in faults(findings)} == {"no florbetapir image"}

    @pytest.mark.parametrize(
        "name", ["2-deoxy-2-[18F]fluoro-D-glucose", "[F-18]-2-fluoro-2-deoxy-D-glucose"]
    )
    def test_fdg_by_its_full_name_in_the_header(self, add, download, name):
        add("001_S_0001", N3M, 10)
        pet = add("001_S_0001", AVERAGED, 11, suffix="dcm")
        pet_file(pet, f"{name} in water")  # water alone is another tracer
        assert ids(find_adni(download)) == [("I10", "I11")]

    def test_a_folder_that_is_not_downloaded(self, add, download):
        add("001_S_0001", N3M, 10)
        empty = download / "001_S_0001" / UNIFORM
        empty.mkdir()
        assert "the folder is empty" in reasons(find_adni(download), "001_S_0001")
        text = f'[submodule "a"]\n  path = {empty.relative_to(download)}\n'
        (download / ".gitmodules").write_text(text)
        said = [reason for _, reason in faults(find_adni(download))]
        assert any(reason.startswith("not downloaded") for reason in said)

    def test_row54_scans_too_far_apart(self, add, download):
        add("001_S_0001", N3M, 101, "2010-01-01")
        add("001_S_0001", UNIFORM, 102, "2012-03-23")
        findings = find_adni(download)
        assert reasons(findings, "001_S_0001")[0] == "MRI and PET are 812 days apart (limit 365)"
        assert faults(findings) == {("001_S_0001", "MRI and PET are 812 days apart (limit 365)")}
        assert find_adni(download, max_days=812).pairs[0].days == 812

    @pytest.mark.parametrize(
        "date", ["1900-01-01", "2999-01-01", "2012-13-45"], ids=lambda date: f"row54-{date}"
    )
    def test_absurd_dates(self, add, download, tmp_path, date):
        add("001_S_0001", N3M, 101, date)
        add("001_S_0001", UNIFORM, 102)
        (pair,) = find_adni(download).pairs
        assert pair.days is None and "no usable date for the MRI" in pair.warnings[0]
        table = tmp_path / "t.csv"
        table.write_text('"Image Data ID","Subject","Acq Date"\n"101","001_S_0001","3/04/2012"\n')
        assert find_adni(download, tables=[table]).pairs[0].days == 3


class TestTables:
    def test_a_table_tells_what_names_do_not(self, add, download, tmp_path):
        for image in (101, 102):
            file = download / "001_S_0001" / "x" / f"I{image}" / "scan.nii"
            file.parent.mkdir(parents=True)
            file.write_bytes(b"%d" % image)
        assert find_adni(download).pairs == ()
        path = tmp_path / "table.csv"
        path.write_text(CLASSIC)
        (pair,) = find_adni(download, tables=[path]).pairs
        assert (pair.mri.image_id, pair.pet.image_id, pair.days) == ("I101", "I102", 11)
        path.write_text(CLASSIC.replace("001_S_0001", "001_S_0009"))
        assert "the table says" in reasons(find_adni(download, tables=[path]), "001_S_0001")[1]

    def test_xml(self, add, download, tmp_path):
        add("001_S_0001", N3M, 101, "1900-01-01", files=3, suffix="dcm")
        add("001_S_0001", UNIFORM, 102, "2012-03-05")
        xml = download / "ADNI_001_S_0001_MT1__N3m_S10_I101.xml"
        xml.write_text(
            "<idaxs xmlns='u:v'><subjectIdentifier>001_S_0001</subjectIdentifier>"
            "<modality>MRI</modality><dateAcquired>2012-03-01 00:00:00.0</dateAcquired>"
            "<protocol term='Matrix Z'>170.0</protocol></idaxs>"
        )
        (pair,) = find_adni(download).pairs
        assert pair.mri.matrix_z == 170 and pair.days == 4
        xml.write_text("<idaxs>")
        findings = find_adni(download)
        assert findings.pairs[0].mri.matrix_z is None and "damaged XML" in findings.notes[0]
        with pytest.raises(InputError, match="damaged XML"):
            find_adni(download, tables=[download])


class TestIds:
    def test_filter_and_missing(self, add, download, tmp_path):
        for subject in (1, 2):
            add(f"001_S_000{subject}", N3M, 10 * subject)
            add(f"001_S_000{subject}", UNIFORM, 10 * subject + 1)
        path = tmp_path / "ImageID.csv"
        ecat = download / "001_S_0003" / "Brain" / "2012-03-01_10_20_30.0" / "I78" / "scan.v"
        ecat.parent.mkdir(parents=True)
        ecat.write_bytes(b"MATRIX72v")
        path.write_text("I10,I11,I21,I78,I999")
        findings = find_adni(download, ids=path)
        assert ids(findings) == [("I10", "I11")] and findings.missing_ids == ("I999",)
        assert reason_of(findings, "I20") == "not in ImageID.csv"
        assert "no T1 MRI" in reasons(findings, "001_S_0002")
        assert {subject for subject, _ in faults(findings)} == {"001_S_0002", "001_S_0003"}

    def test_subjects_and_faults_that_nobody_asked_for(self, add, download, tmp_path):
        for subject, image in ((1, 10), (2, 20)):
            add(f"001_S_000{subject}", N3M, image)
            add(f"001_S_000{subject}", UNIFORM, image + 1)
        add("001_S_0001", "FDG_PET", 78, suffix="v")
        path = tmp_path / "ImageID.csv"
        path.write_text("I10,I11")
        findings = find_adni(download, ids=path)
        assert ids(findings) == [("I10", "I11")] and not faults(findings)
        assert "no T1 MRI and no FDG image" in reasons(findings, "001_S_0002")
        assert len(faults(find_adni(download))) == 1  # the ECAT file
