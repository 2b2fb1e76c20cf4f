"""The JSON beside a fused volume, and the BIDS derivative, by its validator where it is there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import infer_sigleImage
from inference.sidecar import Derivative
from tests.helpers.runs import save_small_weights
from utils.errors import InputError
from utils.version import project_version

NAMES = ("sub-01/ses-M00/anat/sub-01_ses-M00_acq-mprage_run-1", "sub-02/anat/sub-02")


@pytest.fixture
def bids(pair, tmp_path) -> Path:
    """A raw BIDS data set of two subjects, the second one stripped by what its sidecar says."""
    root = tmp_path / "raw"
    for name in NAMES:
        mri = root / f"{name}_T1w.nii.gz"
        stem = Path(name).name.split("_acq")[0]
        pet = mri.parents[1] / "pet" / f"{stem}_trc-18FFDG_pet.nii.gz"
        for path, source in zip((mri, pet), pair, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.load(source), path)
    (root / "sub-02/anat/sub-02_T1w.json").write_text('{"SkullStripped": true}')
    description = {"Name": "raw", "BIDSVersion": "1.11.1"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "small.safetensors"
    save_small_weights(path)
    return path


def test_the_record_says_what_a_volume_was_made_from(pair, weights, run_script, tmp_path):
    output = tmp_path / "out" / "fused.nii.gz"
    flags = ("--mri", pair[0], "--pet", pair[1], "--output", output, "--checkpoint", weights)
    status, _, err = run_script(infer_sigleImage.main, *flags)
    assert status == 0, err
    record = json.loads((tmp_path / "out" / "fused.json").read_text("utf-8"))
    assert record["Sources"] == [str(path) for path in pair]
    assert record["GeneratedBy"]["Version"] == project_version()
    assert record["Network"]["File"] == weights.name
    assert record["Network"]["SHA256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert record["Settings"]["resolution"] == "native"
    low, high = record["ValuesOf0And1"]["MRI"]
    values = nib.load(pair[0]).get_fdata()
    assert low <= values[values > 0].min() and high == pytest.approx(values.max(), rel=1e-5)


def test_a_derivative_passes_the_validator(bids, weights, run_script, tmp_path):
    out = tmp_path / "derivatives"
    flags = ("--data", bids, "--output", out, "--checkpoint", weights, "--layout", "bids")
    status, _, err = run_script(infer_sigleImage.main, *flags, "--page", "--colour")
    assert status == 0, err
    for name, stripped in zip(NAMES, (False, True), strict=True):
        fused = nib.load(out / f"{name}_desc-fused_T1w.nii.gz")
        mri = nib.load(bids / f"{name}_T1w.nii.gz")
        assert np.array_equal(fused.affine, mri.affine) and fused.shape == mri.shape
        record = json.loads((out / f"{name}_desc-fused_T1w.json").read_text("utf-8"))
        assert record["SkullStripped"] is stripped
        assert record["Sources"][0] == f"bids:source:{name}_T1w.nii.gz"
        assert (bids / record["Sources"][1].removeprefix("bids:source:")).is_file()
        assert (out / f"{name}_desc-fused_T1w.html").is_file()
    description = json.loads((out / "dataset_description.json").read_text("utf-8"))
    assert (out / description["DatasetLinks"]["source"]).resolve() == bids.resolve()
    status, text, _ = run_script(infer_sigleImage.main, *flags)  # goes on in its own folder
    assert status == 0 and "2 skipped" in text

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    validator = shutil.which("bids-validator-deno", path=path)
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    answer = subprocess.run([validator, "--format", "json", out], capture_output=True, text=True)
    issues = json.loads(answer.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert answer.returncode == 0


def test_a_derivative_is_not_mixed_with_another_data_set(bids, synthetic_cohort, tmp_path):
    with pytest.raises(InputError, match="belongs to another data set"):
        Derivative(bids, bids)
    with pytest.raises(InputError, match="--layout: bids needs a BIDS data set"):
        Derivative(synthetic_cohort, tmp_path / "out")
