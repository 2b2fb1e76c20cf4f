"""What ADNI's names of folders, files and series say; `rowNN` counts the known bad inputs."""

import datetime
from pathlib import Path

import pytest

from preparation import descriptions

UNIFORM = "Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_Resolution"
UNIFORM_6MM = "Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_6mm_Res"
DYNAMIC = "Co-registered_Dynamic"


class TestNames:
    @pytest.mark.parametrize(
        "folder, place",
        [
            (
                "ADNI/033_s_5198/MT1__N3m/2013-05-09_10_11_12.0/I7",
                ("033_S_5198", "MT1__N3m", datetime.date(2013, 5, 9), "I7"),
            ),
            ("033_S_5198/MT1__N3m/2013-13-09/I7", ("033_S_5198", "MT1__N3m", None, "I7")),
            ("033_S_5198/MT1__N3m", ("033_S_5198", "MT1__N3m", None, None)),
            ("033_S_5198/2013-05-09", ("033_S_5198", None, datetime.date(2013, 5, 9), None)),
            ("MT1__N3m/2013-05-09/I7", (None, None, None, None)),
        ],
    )
    def test_folders(self, folder, place):
        assert descriptions.read_place(Path(folder)) == descriptions.Place(*place)

    @pytest.mark.parametrize(
        "name, subject, description, image",
        [
            (
                "ADNI_016_S_6381_MR_Accelerated_Sagittal_MPRAGE__br_raw_20180522132015417_85_"
                "S688087_I1000691.nii",
                "016_S_6381",
                "Accelerated_Sagittal_MPRAGE_",
                "1000691",
            ),
            (
                "ADNI_941_S_4377_PT_AV45_Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_Resolution_"
                "Br_20120210083545715_46_S140216_I283764.nii",
                "941_S_4377",
                "AV45_Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_Resolution",
                "283764",
            ),
            (
                "ADNI_100_S_10029_MR_MPRAGE_br_raw_20230522132015417_85.dcm",
                "100_S_10029",
                "MPRAGE",
                None,
            ),
        ],
    )
    def test_file_names(self, name, subject, description, image):
        match = descriptions.FILE_NAME.fullmatch(name)
        assert (match["subject"], match["description"], match["image"]) == (
            subject,
            description,
            image,
        )

    @pytest.mark.parametrize(
        "description, rank",
        [
            ("MPR; GradWarp; B1 Correction; N3; Scaled", 0),
            ("MPR__GradWarp__B1_Correction__N3__Scaled_2", 0),
            ("MT1; GradWarp; N3m", 1),
            ("MT1__N3m", 1),
            ("MPR____N3__Scaled", 2),
            ("Accelerated Sagittal IR-FSPGR", 3),
            ("Sag_IR-SPGR", 3),
            ("MP-RAGE", 3),
            ("T1W 3D TFE", 3),
            ("3 Plane Localizer", None),
            ("MPR; GradWarp; B1 Correction; Mask", None),
            ("Sagittal 3D FLAIR", None),
            ("Axial T2 STAR", None),
            ("Axial DTI", None),
            ("Axial rsfMRI (Eyes Open)", None),
            ("Axial 3D PASL (Eyes Open)", None),
            ("B1-calibration Body", None),
            ("MPRAGE B1 map", None),
            ("MPRAGE phase", None),
            ("MPRAGE_phase_A_P", 3),
            ("HighResHippocampus", None),
            ("Field Mapping", None),
        ],
    )
    def test_t1_or_not(self, description, rank):
        assert descriptions.t1_rank(description) == rank

    @pytest.mark.parametrize(
        "description, version",
        [
            ("ADNI Brain PET: Raw FDG", descriptions.RAW),
            ("FDG_Brain_Em_-_Iter_Brain_Mode_", descriptions.RAW),
            ("Brain FDG 3D CTAC", descriptions.RAW),
            (DYNAMIC, descriptions.COREGISTERED),
            ("Co-registered, Averaged", descriptions.COREGISTERED),
            ("Coreg,_Avg,_Standardized_Image_and_Voxel_Size", descriptions.STANDARDIZED),
            (UNIFORM, descriptions.UNIFORM),
            (UNIFORM_6MM, descriptions.UNIFORM_6MM),
        ],
    )
    def test_versions(self, description, version):
        assert descriptions.pet_version(description)[0] == version

    @pytest.mark.parametrize(
        "description, tracer",
        [
            (f"AV45_{UNIFORM}", "florbetapir"),
            ("FBB Co-registered, Averaged", "florbetaben"),
            (f"AV1451_{UNIFORM_6MM}", "flortaucipir"),
            ("PIB_Co-registered_Dynamic", "PiB"),
            (f"TAU_{UNIFORM}", "tau"),
            (f"early_{UNIFORM}", "early"),
            ("XYZ123 Coreg, Avg, Standardized Image and Voxel Size", "xyz123"),
            ("ADNI_Brain_PET__Raw_AV45", "florbetapir"),
        ],
        ids=lambda value: f"row53-{value[:12]}",
    )
    def test_other_tracers(self, description, tracer):
        assert tracer in descriptions.pet_problem(description)
        assert descriptions.pet_version(description) is None

    @pytest.mark.parametrize(
        "description, problem",
        [
            (f"AV45_{UNIFORM}", None),
            ("Florbetapir amyloid PET", None),
            ("PET Brain", None),  # the header decides
            ("FBB Co-registered, Averaged", "tracer is florbetaben, not AV45"),
            (UNIFORM, "tracer is FDG, not AV45"),
            ("Brain FDG 3D CTAC", "tracer is FDG, not AV45"),
            ("XYZ123 Co-registered, Averaged", "tracer is xyz123, not AV45"),
            ("amyloid PET", "tracer is an amyloid tracer, not AV45"),
            ("AV45 early frames", "tracer is another tracer's early frames, not AV45"),
            ("AV45 umap", "no AV45 emission image by its description"),
        ],
    )
    def test_another_tracer_that_is_asked_for(self, description, problem):
        assert descriptions.pet_problem(description, "AV45") == problem
        assert (descriptions.pet_version(description, "AV45") is None) == bool(problem)

    def test_a_tracer_that_nobody_knows(self):
        assert descriptions.pet_version(f"P943 {UNIFORM}", "p943") == (descriptions.UNIFORM, 0)
        assert descriptions.pet_problem(f"P943 {UNIFORM}") == "tracer is p943, not FDG"

    @pytest.mark.parametrize(
        "name", ["FDG", "18FFDG", "Fludeoxyglucose", "2-deoxy-2-[18F]fluoro-D-glucose"]
    )
    def test_fdg_by_its_names(self, name):
        assert descriptions.pet_version(f"{name} {UNIFORM}") == (descriptions.UNIFORM, 0)
        assert descriptions.looks_like_pet(f"brain {name}")
        assert not descriptions.looks_like_pet("brain glucose")

    def test_a_pattern_from_a_table_matches_a_folder(self):
        assert descriptions.matches("Coreg, Avg, Std Img and Vox Siz, Uniform 6mm Res", UNIFORM_6MM)
        assert descriptions.matches("uniform_(6mm|8mm)", UNIFORM_6MM)
        assert not descriptions.matches("Uniform Res", UNIFORM_6MM)
