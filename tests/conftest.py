"""Fixtures shared by the tests: a small head without any symmetry, and NIfTI files made of it."""

import functools
import multiprocessing
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.multiprocessing import start_processes

import train_diff
from data.phantom.cohort import write_cohort
from tests.helpers import triton_interpreter  # noqa: F401  # before Triton is imported to compile
from tests.helpers.label_maps import write_label_maps
from tests.helpers.runs import QUICK, QUICK_2D
from utils.cli import run

HEAD_SHAPE = (18, 22, 15)
VOXEL_MM = (1.5, 1.0, 2.0)


@pytest.fixture
def head_affine() -> np.ndarray:
    """(4, 4) RAS+ affine with three different voxel sides and an origin off the centre."""
    affine = np.diag([*VOXEL_MM, 1.0])
    affine[:3, 3] = -13.25, -9.5, -16.0
    return affine


@pytest.fixture
def head() -> np.ndarray:
    """(18, 22, 15) float32 in RAS+, 0 around an ellipsoid, all values different inside."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in HEAD_SHAPE), indexing="ij"))
    inside = (grid**2).sum(axis=0) < 0.8
    values = 100 + 40 * grid[0] + 25 * grid[1] - 15 * grid[2] + 10 * grid[0] * grid[1]
    noise = np.random.default_rng(0).uniform(0, 5, HEAD_SHAPE)
    return np.where(inside, values + noise, 0).astype(np.float32)


@pytest.fixture
def oblique():
    """Function (affine, degrees) -> the affine turned in space about the axis (1, 2, 3)."""

    def turn(affine: np.ndarray, degrees: float = 20.0) -> np.ndarray:
        axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
        turned = affine.copy()
        turned[:3] = Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix() @ affine[:3]
        return turned

    return turn


@pytest.fixture
def write_nifti(tmp_path):
    """Function that stores an RAS+ array in any orientation and returns the file's path."""

    def write(
        name: str,
        array: np.ndarray,
        affine: np.ndarray,
        axcodes: str = "RAS",
        codes: tuple[int, int] = (2, 2),
        kind: type[nib.Nifti1Image] = nib.Nifti1Image,
    ) -> Path:
        """`codes` are those of sform and qform; a code of 0 leaves the form out."""
        change = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
        image = kind(array, affine, dtype=array.dtype).as_reoriented(change)
        image = kind(np.asarray(image.dataobj), image.affine, dtype=array.dtype)
        image.set_sform(image.affine if codes[0] else None, codes[0])
        image.set_qform(image.affine if codes[1] else None, codes[1])
        image.header.set_xyzt_units("mm", "sec")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    return write


@pytest.fixture
def pair(head, head_affine, write_nifti):
    """MRI and PET files of a small asymmetric head, stored as LAS int16 and RAS float."""
    mri = write_nifti("mri.nii.gz", (head * 10).astype(np.int16), head_affine, "LAS", codes=(4, 1))
    pet = write_nifti("pet.nii.gz", ndimage.gaussian_filter(head, 1) * (head > 0), head_affine)
    return mri, pet


@pytest.fixture(scope="session")
def synthetic_cohort(tmp_path_factory) -> Path:
    """Root of three coarse synthetic subjects in the published layout; read only."""
    root = tmp_path_factory.mktemp("cohort") / "data"
    write_cohort(root, subjects=3, voxel_mm=6)
    return root


@pytest.fixture(scope="session")
def label_maps(tmp_path_factory) -> Path:
    """Folder of two label maps of one made-up head; read only."""
    return write_label_maps(tmp_path_factory.mktemp("labels"))


@pytest.fixture
def run_script(capsys):
    """Function (main, *flags) -> (exit status, stdout, stderr), as a command line sees them."""

    def call(main, *flags) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(lambda: main([str(flag) for flag in flags]))
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.fixture
def refuses(run_script):
    """Function (main, *flags, names) that expects one error line on stderr that holds `names`, and
    status 2.
    """

    def check(main, *flags, names: tuple[str, ...]) -> None:
        status, _, err = run_script(main, *flags)
        lines = [line for line in err.splitlines() if not line.startswith("notice: ")]
        assert status == 2, err
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ") and "; " in lines[0], err
        for name in names:
            assert str(name) in lines[0], err

    return check


@pytest.fixture
def quick_processes(monkeypatch):
    """Processes of `launch` come from one that has imported PyTorch already, instead of fresh.

    They print where that one did: not for tests that look at it.
    """
    multiprocessing.set_forkserver_preload(["tests.helpers.workers"])
    forked = functools.partial(start_processes, start_method="forkserver")
    monkeypatch.setattr("training.devices.distributed.multiprocessing.spawn", forked)


@pytest.fixture
def train(run_script, synthetic_cohort, tmp_path):
    """Function (*flags, name) -> run folder, of a quick training on the synthetic cohort that must
    succeed.
    """

    def call(*flags, name="run", data=synthetic_cohort) -> Path:
        quick = QUICK_2D if "--model" in flags else QUICK
        flags = ("--data", data, "--out", tmp_path / "result", "--name", name, *quick, *flags)
        status, _, err = run_script(train_diff.main, *flags)
        assert status == 0, err
        return tmp_path / "result" / name

    return call
