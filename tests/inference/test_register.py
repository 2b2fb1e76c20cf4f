"""The field of a trained network as a file: what it says, and what is refused."""

import nibabel as nib
import numpy as np
import pytest

from data.displacement import read_displacement
from data.phantom.cohort import subject_seed, write_image
from data.phantom.head import make_subject
from data.template_space import FIELD_OF_VIEW
from inference import register
from tests.helpers.runs import save_shifting, save_untrained
from tests.test_manners import WITHOUT, call

SHIFT = (0.5, -1.0, 0.25)  # voxels


@pytest.fixture
def files(tmp_path):
    """Two heads, and the checkpoint of a network that shifts by as much everywhere."""
    found = {}
    for number, name in enumerate(("moving", "fixed")):
        head = make_subject(subject_seed(2, number), 8.0)
        found[name] = tmp_path / f"{name}.nii.gz"
        write_image(found[name], head.mri, head.affine)
    found["run"] = tmp_path / "run"
    found["run"].mkdir()
    save_shifting(found["run"] / "last.pt", SHIFT)
    return found


def test_the_field_is_in_millimetres_on_the_network_s_grid(files, run_script, tmp_path):
    out = tmp_path / "field.nii.gz"
    flags = ("--checkpoint", files["run"], "--moving", files["moving"], "--fixed", files["fixed"])
    status, said, err = run_script(register.main, *flags, "--field", out)
    assert status == 0 and "transmorph" in said, err
    field = read_displacement(out)
    voxel_mm = FIELD_OF_VIEW / 32
    assert field.vectors.shape == (32, 32, 32, 3)
    assert field.vectors.reshape(-1, 3) == pytest.approx(
        np.broadcast_to(np.array(SHIFT) * voxel_mm, (32**3, 3)), rel=1e-6
    )
    assert np.diag(field.affine)[:3] == pytest.approx([voxel_mm] * 3)
    first = out.read_bytes()
    run_script(register.main, *flags, "--field", out)
    assert out.read_bytes() == first


def test_what_cannot_be_used_is_refused(files, refuses, run_script, tmp_path):
    status, said, _ = run_script(register.main, "--checkpoint", files["run"], "--check")
    assert status == 0 and "epoch 1" in said
    refuses(register.main, "--checkpoint", files["run"], names=("--moving", "is missing"))
    save_untrained(tmp_path / "fusing.pt")
    flags = ("--checkpoint", tmp_path / "fusing.pt", "--check")
    refuses(register.main, *flags, names=("fusing.pt", "which fuses"))
    elsewhere = nib.load(files["moving"])
    affine = elsewhere.affine.copy()
    affine[:3, 3] += 500
    write_image(tmp_path / "far.nii.gz", np.asarray(elsewhere.dataobj), affine)
    flags = ("--checkpoint", files["run"], "--moving", tmp_path / "far.nii.gz")
    flags += ("--fixed", files["fixed"], "--field", tmp_path / "f.nii.gz")
    refuses(register.main, *flags, names=("far.nii.gz", "MNI152"))
    assert not (tmp_path / "f.nii.gz").exists()


def test_its_process_does_without_monai(files):
    """Which takes longer to import than the network to run, and there is a process a subject."""
    flags = "--checkpoint", files["run"], "--check"
    done = call("-c", WITHOUT, "monai", "inference/register.py", *flags)
    assert done.returncode == 0 and "epoch 1" in done.stdout, done.stderr
