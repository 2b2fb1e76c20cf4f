"""Finding and pairing files in both layouts, and tables of pairs."""

import json
import shutil

import pytest

from data.subjects import Subject, find_subjects, name_problem, read_pairs
from utils.errors import InputError
from utils.text import read_text


@pytest.fixture
def touch(tmp_path):
    """Function that makes files, which pairing looks at by name only, and returns their root."""

    def make(*names):
        for name in names:
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return tmp_path / "root"

    return make


def published(name, suffix=".nii.gz"):
    return [f"{name}/{name}_mri_MNI152{suffix}", f"{name}/{name}_FDG_MNI152{suffix}"]


def bids(session, pet="pet"):
    stem = session.replace("/", "_")
    return [f"{session}/anat/{stem}_T1w.nii.gz", f"{session}/pet/{stem}_{pet}.nii.gz"]


def names(items):
    return [item.name for item in items]


def reason(cohort, name):
    return next(item.reason for item in cohort.left_out if item.name == name)


def refused(call, source, *words):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.source == str(source)
    for word in words:
        assert word in str(caught.value)


class TestPublishedLayout:
    def test_pairs_in_natural_order(self, touch):
        root = touch(*published("s10"), *published("s2", ".nii"), *published("s1"), "notes.txt")
        cohort = find_subjects(root)
        assert cohort.layout == "published" and not cohort.left_out
        assert names(cohort.subjects) == ["s1", "s2", "s10"]
        mri, pet = (root / name for name in published("s2", ".nii"))
        assert cohort.subjects[1] == Subject("s2", mri, pet, "s2")

    @pytest.mark.parametrize(
        "name, group",
        [
            ("033_S_5198", "033_S_5198"),
            ("033_S_5198_I495208", "033_S_5198"),
            ("sub-01_ses-M12", "sub-01"),
            ("sub-0123", "sub-0123"),
            ("control_7", "control_7"),
            ("033_S_51987", "033_S_51987"),
        ],
    )
    def test_participants(self, touch, name, group):
        assert find_subjects(touch(*published(name))).subjects[0].group == group

    def test_left_out_and_why(self, touch):
        root = touch(*published("good"), *published("two"), "two/two_mri_MNI152.nii")
        touch(published("mri")[0], published("pet")[1], "logs/x.txt", *published("a,b"))
        touch("other/wrong_mri_MNI152.nii.gz", "other/other_FDG_MNI152.nii.gz", ".cache/x")
        touch("derivatives/a/b.nii.gz")
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["good"]
        assert names(cohort.left_out) == ["a,b", "logs", "mri", "other", "pet", "two"]
        assert reason(cohort, "mri") == "no PET, mri_FDG_MNI152.nii.gz is not there"
        assert reason(cohort, "pet") == "no MRI, pet_mri_MNI152.nii.gz is not there"
        assert "no MRI" in reason(cohort, "logs") and "no PET" in reason(cohort, "logs")
        assert "found wrong_mri_MNI152.nii.gz" in reason(cohort, "other")
        assert "two_mri_MNI152.nii, two_mri_MNI152.nii.gz" in reason(cohort, "two")
        assert "comma" in reason(cohort, "a,b")

    def test_summary(self, touch):
        root = touch(*published("good"), published("half")[0])
        assert find_subjects(root).summary().splitlines() == [
            "1 subject with MRI and PET (published layout)",
            "1 subject left out:",
            "  half: no PET, half_FDG_MNI152.nii.gz is not there",
        ]
        root = touch(published("half")[1])
        assert find_subjects(root).summary() == "2 subjects with MRI and PET (published layout)"

    def test_a_folder_named_like_bids(self, touch):
        cohort = find_subjects(touch(*published("sub-01")))
        assert cohort.layout == "published" and names(cohort.subjects) == ["sub-01"]


class TestBids:
    def test_sessions_and_entities(self, touch):
        root = touch(*bids("sub-2"), *bids("sub-10/ses-M00"), *bids("sub-10/ses-M12"))
        touch("sub-1/anat/sub-1_acq-mprage_rec-norm_run-01_echo-1_T1w.nii")
        touch("sub-1/pet/sub-1_task-rest_trc-18FFDG_rec-acstat_run-2_pet.nii")
        touch("sub-1/anat/sub-1_T2w.nii.gz", "sub-1/pet/sub-1_trc-18FFDG_pet.json")
        touch("participants.tsv", "derivatives/sub-9/anat/sub-9_T1w.nii.gz", "code/run.py")
        cohort = find_subjects(root)
        assert cohort.layout == "BIDS" and not cohort.left_out and not cohort.passed_over
        assert names(cohort.subjects) == ["sub-1", "sub-2", "sub-10_ses-M00", "sub-10_ses-M12"]
        assert [item.group for item in cohort.subjects] == ["sub-1", "sub-2", "sub-10", "sub-10"]
        assert cohort.subjects[2].pet == root / "sub-10/ses-M00/pet/sub-10_ses-M00_pet.nii.gz"

    def test_no_pairing_across_sessions(self, touch):
        root = touch(*bids("sub-1"), bids("sub-2/ses-a")[0], bids("sub-2/ses-b")[1])
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1"]
        assert reason(cohort, "sub-2_ses-a") == "no FDG-PET"
        assert reason(cohort, "sub-2_ses-b") == "no T1w MRI"

    def test_participant_folder_beside_sessions(self, touch):
        cohort = find_subjects(touch(*bids("sub-1"), *bids("sub-1/ses-b")))
        assert names(cohort.subjects) == ["sub-1", "sub-1_ses-b"]

    def test_other_tracers(self, touch):
        root = touch(*bids("sub-1", "trc-18FAV45_pet"), *bids("sub-2", "acq-FDG_pet"))
        touch(*bids("sub-3", "trc-18Ffdg_pet"), *bids("sub-3", "trc-PIB_pet"))
        touch(*bids("sub-4", "acq-AV1451_pet"))
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-2", "sub-3"]
        assert "trc-18Ffdg" in cohort.subjects[1].pet.name
        assert "no FDG-PET" in reason(cohort, "sub-1")
        assert "sub-1_trc-18FAV45_pet.nii.gz: the tracer is 18FAV45" in reason(cohort, "sub-1")
        assert "the tracer is AV1451" in reason(cohort, "sub-4")
        assert names(cohort.passed_over) == ["sub-3_trc-PIB_pet.nii.gz"]
        said = cohort.summary()
        assert "1 file not taken" in said and "sub-3_trc-PIB_pet.nii.gz: the tracer is PIB" in said

    def test_candidates_are_listed_or_chosen(self, touch):
        root = touch(
            *bids("sub-0"), *bids("sub-1", "rec-acdyn_pet"), *bids("sub-1", "rec-acstat_pet")
        )
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-0"]
        listed = "sub-1_rec-acdyn_pet.nii.gz, sub-1_rec-acstat_pet.nii.gz"
        assert reason(cohort, "sub-1") == f"several candidates for the FDG-PET: {listed}"
        chosen = find_subjects(root, recording="acstat")
        assert names(chosen.subjects) == ["sub-0", "sub-1"]  # sub-0 names no recording
        assert "rec-acstat" in chosen.subjects[1].pet.name
        other = find_subjects(root, recording="nacstat")
        assert reason(other, "sub-1") == "no FDG-PET with rec-nacstat"

    @pytest.mark.parametrize("run", ["2", "02", 2])
    def test_runs(self, touch, run):
        root = touch(*bids("sub-1", "run-01_pet"), *bids("sub-1", "run-02_pet"))
        touch("sub-1/anat/sub-1_run-1_T1w.nii.gz", "sub-1/anat/sub-1_run-2_T1w.nii.gz")
        (root / "sub-1/anat/sub-1_T1w.nii.gz").unlink()
        touch(*bids("sub-2", "run-2_pet"), *bids("sub-3", "run-1_pet"))
        (subject, second), left = (
            find_subjects(root, run=run).subjects,
            find_subjects(root, run=run),
        )
        assert "run-2" in subject.mri.name and "run-02" in subject.pet.name
        assert second.name == "sub-2" and reason(left, "sub-3") == f"no FDG-PET with run-{run}"
        touch("sub-4/anat/sub-4_run-1_T1w.nii.gz", "sub-4/pet/sub-4_run-2_pet.nii.gz")
        assert "sub-4" in names(find_subjects(root, run=run).subjects)  # the only MRI has to do
        both = reason(find_subjects(root), "sub-1")
        assert "candidates for the T1w MRI" in both and "candidates for the FDG-PET" in both

    def test_files_of_another_subject_or_session(self, touch):
        root = touch(*bids("sub-1"), "sub-1/pet/sub-2_pet.nii.gz")
        touch("sub-3/ses-a/anat/sub-3_ses-b_T1w.nii.gz", bids("sub-3/ses-a")[1])
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1"]
        assert names(cohort.passed_over) == ["sub-2_pet.nii.gz"]
        assert "sub-3_ses-b_T1w.nii.gz: its name does not fit" in reason(cohort, "sub-3_ses-a")

    def test_image_folders_are_no_files(self, touch):
        root = touch(*bids("sub-1"))
        (root / "sub-1/pet/sub-1_run-9_pet.nii.gz").mkdir()
        assert names(find_subjects(root).subjects) == ["sub-1"]


class TestBidsSidecars:
    """What train_diff.py, infer_sigleImage.py and evaluate.py see of tracers in JSON files."""

    @pytest.fixture
    def write(self, touch):
        """Function (name, **fields) that writes a sidecar into the data set."""

        def make(name, **fields):
            (touch() / name).write_text(json.dumps(fields))

        return make

    def test_another_tracer_in_the_sidecar(self, touch, write):
        root = touch(*bids("sub-1"), *bids("sub-2/ses-b"))
        write("sub-2/ses-b/pet/sub-2_ses-b_pet.json", TracerName="DASB")
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1"]
        said = "no FDG-PET; sub-2_ses-b_pet.nii.gz: the tracer is DASB, not FDG"
        assert reason(cohort, "sub-2_ses-b") == said

    def test_nobody_with_fdg(self, touch, write):
        root = touch(*bids("sub-1"))
        write("sub-1/pet/sub-1_pet.json", TracerName="DASB")
        refused(lambda: find_subjects(root), root, "none of 1 subject", "the tracer is DASB")

    @pytest.mark.parametrize(
        "name",
        [
            "2-deoxy-2-[18F]fluoro-D-glucose",
            "18F-fluoro-deoxy-glucose",
            "[F-18]-2-fluoro-2-deoxy-D-glucose",
            "Fludeoxyglucose",
            "FDG",
            "18FFDG",
            "n/a",
        ],
    )
    def test_fdg_by_its_names(self, touch, write, name):
        root = touch(*bids("sub-1"))
        write("sub-1/pet/sub-1_pet.json", TracerName=name, TracerRadionuclide="F18")
        assert names(find_subjects(root).subjects) == ["sub-1"]

    @pytest.mark.parametrize("place", ["", "sub-2/sub-2_", "sub-2/ses-b/sub-2_ses-b_"])
    def test_sidecars_hold_for_all_below(self, touch, write, place):
        root = touch(*bids("sub-1", "trc-FDG_pet"), *bids("sub-2/ses-b"))
        write(f"{place}pet.json", TracerName="DASB")
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1"]
        assert "the tracer is DASB" in reason(cohort, "sub-2_ses-b")

    def test_the_nearer_sidecar_wins(self, touch, write):
        root = touch(*bids("sub-1"), *bids("sub-2"))
        write("pet.json", TracerName="DASB")
        write("sub-2/sub-2_pet.json", TracerName="FDG")
        assert names(find_subjects(root).subjects) == ["sub-2"]
        write("sub-2/pet/sub-2_pet.json", TracerName="PiB")
        refused(lambda: find_subjects(root), root, "none of 2 subjects")

    def test_a_tracer_left_out_decides_among_candidates(self, touch, write):
        root = touch(*bids("sub-1", "run-01_pet"), *bids("sub-1", "run-02_pet"))
        write("sub-1/pet/sub-1_run-01_pet.json", TracerName="DASB")
        cohort = find_subjects(root)
        assert cohort.subjects[0].pet.name == "sub-1_run-02_pet.nii.gz"
        assert names(cohort.passed_over) == ["sub-1_run-01_pet.nii.gz"]

    def test_without_attenuation_correction(self, touch, write):
        """The corrected one is chosen; a subject without one is left out by name."""
        root = touch(*bids("sub-1", "rec-acstat_pet"), *bids("sub-1", "rec-nacstat_pet"))
        touch(*bids("sub-2", "rec-nacdyn_pet"), *bids("sub-3"), *bids("sub-4", "trc-FDG_pet"))
        write("sub-3/pet/sub-3_pet.json", AttenuationCorrection="none")
        write("sub-4/pet/sub-4_trc-FDG_pet.json", AttenuationCorrection="none")
        cohort = find_subjects(root)
        assert [s.pet.name for s in cohort.subjects] == ["sub-1_rec-acstat_pet.nii.gz"]
        assert names(cohort.passed_over) == ["sub-1_rec-nacstat_pet.nii.gz"]
        for name, word in (("sub-2", "rec-nacdyn"), ("sub-3", "none"), ("sub-4", "none")):
            assert "not corrected for attenuation" in reason(cohort, name)
            assert word in reason(cohort, name)

    def test_another_tracer_that_is_asked_for(self, touch, write):
        root = touch(*bids("sub-1", "trc-18FAV45_pet"), *bids("sub-1", "trc-FDG_pet"))
        touch(*bids("sub-2"), *bids("sub-3"))
        write("sub-3/pet/sub-3_pet.json", TracerName="[18F]Florbetapir")
        cohort = find_subjects(root, tracer="florbetapir")
        assert names(cohort.subjects) == ["sub-1", "sub-3"]
        assert "AV45" in cohort.subjects[0].pet.name
        assert "no florbetapir-PET" in reason(cohort, "sub-2")
        assert "tracer is not named" in reason(cohort, "sub-2")  # as good as any other one

    def test_the_published_layout_has_one_tracer(self, touch):
        root = touch(*published("s1"))
        assert find_subjects(root, tracer="18FFDG").subjects
        refused(lambda: find_subjects(root, tracer="PiB"), "--tracer", "published layout", "PiB")

    @pytest.mark.parametrize("name", ["unknown", "", "n/a", "UNKNOWN", None, "none", "other"])
    def test_no_name_is_said(self, touch, write, name):
        """Something else decides: a label, a description, the radionuclide; else it is told."""
        root = touch(*bids("sub-1"), *bids("sub-2", "desc-AV45_pet"), *bids("sub-3"))
        touch(*bids("sub-4", "trc-FDG_pet"))
        write("pet.json", TracerName=name)
        write("sub-3/pet/sub-3_pet.json", TracerRadionuclide="C11")
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1", "sub-4"]
        assert "the tracer is florbetapir" in reason(cohort, "sub-2")
        assert "the tracer is marked with C11" in reason(cohort, "sub-3")
        said = "1 PET whose tracer is not named, taken for FDG, as sub-1_pet.nii.gz"
        assert cohort.summary().splitlines()[-1] == said

    def test_a_damaged_sidecar_is_said(self, touch):
        root = touch(*bids("sub-1"), *bids("sub-2"), *bids("sub-3", "trc-FDG_pet"))
        for stem in ("sub-2/pet/sub-2_pet", "sub-3/pet/sub-3_trc-FDG_pet"):
            (root / f"{stem}.json").write_text("{")
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1", "sub-3"]  # the name of sub-3's file tells it
        assert "its sidecar is damaged" in reason(cohort, "sub-2")
        assert "sub-2_pet.json: not JSON" in reason(cohort, "sub-2")


class TestKeptElsewhere:
    """What iCloud, DVC and the like leave in place of files and folders."""

    def test_bids(self, touch):
        files = [file for k in range(1, 5) for file in bids(f"sub-{k}")]
        root = touch(*files, "sub-5.dvc", "README.dvc")
        mri, pet = root / files[2], root / files[5]
        mri.rename(mri.with_name(f".{mri.name}.icloud"))
        pet.rename(pet.with_name(f"{pet.name}.dvc"))
        (root / files[7]).unlink(), (root / files[7]).parent.rmdir()
        touch("sub-4/pet.dvc", f"{files[0]}.dvc")  # the last one is there, too
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1"]
        for name, word in (
            ("sub-2", f"brctl download {mri}"),
            ("sub-3", f"dvc pull {pet}.dvc"),
            ("sub-4", f"dvc pull {root}/sub-4/pet.dvc"),
            ("sub-5", f"dvc pull {root}/sub-5.dvc"),
        ):
            assert "not downloaded" in reason(cohort, name) and word in reason(cohort, name)

    def test_the_published_layout(self, touch):
        root = touch(*published("s1"), "s2/.s2_mri_MNI152.nii.gz.icloud", published("s2")[1])
        assert "not downloaded, there is only .s2_mri" in reason(find_subjects(root), "s2")
        refused(lambda: find_subjects(touch("gone.dvc") / "gone"), root / "gone", "dvc pull")


class TestNotDownloaded:
    """What a data set of git-annex has before `datalad get`: links to nothing."""

    POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"

    def annexed(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to("../../.git/annex/objects/aa/bb/MD5E-s1--cc.nii.gz/MD5E-s1--cc.nii.gz")

    def test_in_bids(self, touch):
        root = touch(*bids("sub-1"), *bids("sub-2"), *bids("sub-3"))
        self.annexed(root / "sub-2/anat/sub-2_T1w.nii.gz")
        (root / "sub-3/pet/sub-3_pet.nii.gz").write_text(self.POINTER)
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1"]
        said = reason(cohort, "sub-2")
        assert "sub-2_T1w.nii.gz: not downloaded" in said and "`datalad get " in said
        said = reason(cohort, "sub-3")
        assert "sub-3_pet.nii.gz: not downloaded" in said and "`git lfs pull`" in said

    def test_in_the_published_layout(self, touch):
        root = touch()
        for name in published("s1"):
            self.annexed(root / name)
        words = "s1_mri_MNI152.nii.gz: not downloaded", "s1_FDG_MNI152.nii.gz: not downloaded"
        refused(lambda: find_subjects(root), root, *words, "datalad get")

    @pytest.mark.parametrize("layout", [bids, published])
    def test_parts_of_a_data_set(self, touch, layout):
        root = touch(*layout("sub-1"))
        text = "".join(f'[submodule "{n}"]\n  path = sub-{n}\n' for n in (2, 3))
        (root / ".gitmodules").write_text(text)
        (root / "sub-2").mkdir()
        cohort = find_subjects(root)
        assert names(cohort.subjects) == ["sub-1"]
        assert "sub-2: not downloaded" in f"sub-2: {reason(cohort, 'sub-2')}"
        assert f"`datalad get {root}/sub-2`" in reason(cohort, "sub-2")
        shutil.rmtree(root / "sub-1")
        refused(lambda: find_subjects(root), root / "sub-2", "not downloaded", "datalad get")

    def test_a_data_set_that_is_a_part_of_another(self, touch):
        root = touch("README")
        (root / ".gitmodules").write_text('[submodule "raw"]\n  path = raw\n')
        (root / "raw").mkdir()
        refused(lambda: find_subjects(root / "raw"), root / "raw", "not downloaded")

    def test_in_a_table(self, touch):
        root = touch("a.nii")
        self.annexed(root / "b.nii")
        (root / "pairs.csv").write_text("mri,pet\na.nii,b.nii\n")
        path = root / "pairs.csv"
        refused(lambda: read_pairs(path), path, "line 2", "b.nii: not downloaded", "datalad get")


def test_any_case_of_the_endings(touch):
    root = touch(*published("s1", ".NII.GZ"), *published("s2", ".Nii"))
    assert names(find_subjects(root).subjects) == ["s1", "s2"]


class TestRefusedFolders:
    def test_missing_file_empty(self, tmp_path):
        refused(lambda: find_subjects(tmp_path / "none"), tmp_path / "none", "no such folder")
        refused(lambda: find_subjects(tmp_path), tmp_path, "is empty", "looked for")
        (tmp_path / "file").write_text("x")
        refused(lambda: find_subjects(tmp_path / "file"), tmp_path / "file", "is a file")

    def test_neither_layout(self, touch):
        root = touch("a/scan.nii.gz", "sub-1/scan.nii.gz", "b.nii.gz")
        refused(lambda: find_subjects(root), root, "no subject in it", "_mri_MNI152", "_T1w.nii.gz")

    def test_both_layouts(self, touch):
        root = touch(*published("s1"), *bids("sub-1"))
        refused(lambda: find_subjects(root), root, "two layouts", "s1", "sub-1")

    def test_nobody_has_a_pair(self, touch):
        root = touch(published("s1")[0], published("s2")[1])
        refused(lambda: find_subjects(root), root, "none of 2 subjects has a pair", "s1: no PET")

    def test_unreadable(self, touch, monkeypatch):
        root = touch(*published("s1"))

        def denied(_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(root), "iterdir", denied)
        refused(lambda: find_subjects(root), root, "Permission denied")


@pytest.mark.parametrize(
    "name, word",
    [
        ("a/b", "path"),
        ("s" * 300, "too long"),
        ("..", "path"),
        ("a..b", "path"),
        (".", "path"),
        ("a\\b", "path"),
        ("/a", "path"),
        ("C:x", "path"),
        ("", "empty"),
        (" ", "empty"),
        (" a", "blank"),
        ("a\nb", "control"),
        ("a,b", "comma"),
        ("#a", "#"),
    ],
)
def test_names_that_are_none(name, word):
    assert word in name_problem(name)


@pytest.mark.parametrize("name", ["033_S_5198", "sub-01_ses-M00", "patient 7", "ä.b"])
def test_good_names(name):
    assert name_problem(name) is None


class TestTables:
    @pytest.fixture
    def table(self, touch):
        """Function that writes a table beside the files m.nii, p.nii, x/m.nii and x/p.nii."""
        root = touch("m.nii", "p.nii", "x/m.nii", "x/p.nii", "a_mri_MNI152.nii.gz")

        def write(text, name="pairs.csv"):
            content = text if isinstance(text, bytes) else text.encode()
            (root / name).write_bytes(content)
            return root / name

        return write

    def refused(self, path, *words):
        refused(lambda: read_pairs(path), path, *words)

    def test_columns_in_any_order(self, table):
        path = table(
            "subject,output,pet,mri\nanna,out/f.nii.gz,p.nii,m.nii\n\nben,,x/p.nii,x/m.nii\n"
        )
        first, second = read_pairs(path)
        root = path.parent
        assert (first.mri, first.pet) == (root / "m.nii", root / "p.nii")
        assert (first.subject, first.output, first.line) == ("anna", root / "out/f.nii.gz", 2)
        assert (second.subject, second.output, second.line) == ("ben", None, 4)

    def test_absolute_paths_and_default_names(self, table, tmp_path):
        pet = tmp_path / "root" / "p.nii"
        pairs = read_pairs(table(f"mri,pet\nx/m.nii,{pet}\na_mri_MNI152.nii.gz,p.nii\n"))
        assert pairs[0].pet == pet and pairs[0].output is None
        assert [pair.subject for pair in pairs] == ["m", "a"]

    @pytest.mark.parametrize(
        "text",
        [
            b"\xef\xbb\xbfmri,pet\r\nm.nii,p.nii\r\n",
            b"MRI; PET\nm.nii; p.nii\n",
            b"mri\tpet\nm.nii\tp.nii",
            b'\n"mri","pet"\n"m.nii", "p.nii"\n , \n',
            b"mri,pet,output\nm.nii,p.nii\n",
        ],
    )
    def test_dialects(self, table, text):
        (pair,) = read_pairs(table(text))
        assert (pair.mri.name, pair.pet.name) == ("m.nii", "p.nii")

    def test_unknown_column_is_said(self, table, capsys):
        read_pairs(table("mri,pet,ouput\nm.nii,p.nii,f.nii\n"))
        assert "column ouput is not used" in capsys.readouterr().err

    def test_empty(self, table):
        self.refused(table(""), "empty")
        self.refused(table(" \n\n"), "empty")
        self.refused(table("mri,pet\n"), "no pairs")

    def test_columns(self, table):
        self.refused(table("mri,PT\nm.nii,p.nii\n"), "line 1: no column pet")
        self.refused(table("\nm.nii,p.nii\n"), "line 2: no column mri and no column pet")
        self.refused(table("mri,pet,mri\nm.nii,p.nii,m.nii\n"), "two columns are called mri")

    def test_cells(self, table):
        self.refused(table("mri,pet\nm.nii,p.nii\nm.nii,\n"), "line 3: no pet")
        self.refused(table("mri,pet\nm.nii\n"), "line 2: no pet")
        self.refused(table("mri,pet\nm.nii,p.nii,f.nii\n"), "line 2: 3 cells for 2 columns")
        self.refused(table("mri,pet,subject\nm.nii,p.nii,../a\n"), "line 2", "'../a' has a path")

    def test_missing_files_all_at_once(self, table):
        self.refused(
            table("mri,pet\nm.nii,q.nii\nn.nii,p.nii\n"), "line 2", "q.nii", "line 3", "n.nii"
        )
        many = "".join(f"m{n}.nii,p{n}.nii\n" for n in range(4))
        self.refused(table("mri,pet\n" + many), "and 3 more")

    def test_twice(self, table):
        self.refused(
            table("mri,pet\nm.nii,p.nii\nx/m.nii,p.nii\n"), "line 3: the subject m", "line 2"
        )
        text = "mri,pet,output,subject\nm.nii,p.nii,f.nii,a\nm.nii,p.nii,f.nii,b\n"
        self.refused(table(text), "line 3: the output", "line 2", "own output")


def test_texts_that_cannot_be_read(tmp_path, monkeypatch):
    def text(content):
        (tmp_path / "list").write_bytes(content)
        return lambda: read_text(tmp_path / "list")

    refused(lambda: read_text(tmp_path / "none"), tmp_path / "none", "no such file")
    refused(lambda: read_text(tmp_path), tmp_path, "is a folder")
    refused(text("s1\n".encode("utf-16")), tmp_path / "list", "not UTF-8 text (at byte 0)")
    refused(text(b"s1\0"), tmp_path / "list", "not a text file")

    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "read_bytes", denied)
    refused(lambda: read_text(tmp_path / "list"), tmp_path / "list", "Permission denied")
