"""The MONAI bundle: MONAI's own checks, and the volume that infer_sigleImage.py writes."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

import infer_sigleImage
from inference import bundle
from inference.trained import load_model
from tests.helpers.runs import save_small_weights

# What MONAI's description of bundles asks of metadata.json, which its own check takes as a file.
SCHEMA = {
    "type": "object",
    "required": [
        "version", "changelog", "monai_version", "pytorch_version", "numpy_version",
        "required_packages_version", "task", "description", "authors", "copyright",
        "network_data_format",
    ],
    "properties": {
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "monai_version": {"type": "string", "pattern": r"^\d+\.\d+"},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {
            "type": "object", "additionalProperties": {"type": "string"},
        },
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": [
                        "type", "format", "num_channels", "spatial_shape", "dtype", "value_range",
                        "is_patch_data", "channel_def",
                    ],
                },
            },
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Small weights for any balance, of windows that are smaller than the head."""
    path = tmp_path_factory.mktemp("weights") / "dc2fusion.safetensors"
    save_small_weights(path, refine=2, size=24)
    return path


@pytest.fixture(scope="module")
def folder(weights):
    """The bundle made of them."""
    folder = weights.parent / "bundle"
    bundle.main(["--out", str(folder), "--checkpoint", str(weights)])
    return folder


def test_it_has_the_files_of_a_bundle(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    configs = {"configs/inference.json", "configs/metadata.json"}
    assert found == configs | {"models/model.pt", "docs/README.md", "LICENSE"}
    assert "--mri t1.nii.gz" in (folder / "docs" / "README.md").read_text()


def test_monai_verifies_its_metadata(folder, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    metadata = folder / "configs" / "metadata.json"
    verify_metadata(meta_file=str(metadata), filepath=str(schema))

    content = json.loads(metadata.read_text())
    del content["network_data_format"]["inputs"]["image"]["num_channels"]
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="num_channels"):
        verify_metadata(meta_file=str(tmp_path / "bad.json"), filepath=str(schema))


@pytest.mark.parametrize("side", [1, 30])
def test_monai_verifies_input_and_output_of_the_network(folder, side):
    configs = folder / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        any=side,
    )


@pytest.fixture
def fused(folder, pair, tmp_path):
    """Function (**overrides) -> the volume that the bundle writes of a pair."""

    def call(**overrides):
        configs = folder / "configs"
        workflow = ConfigWorkflow(
            config_file=str(configs / "inference.json"),
            meta_file=str(configs / "metadata.json"),
            workflow_type="infer",
            bundle_root=str(folder),
            mri=str(pair[0]),
            pet=str(pair[1]),
            output_dir=str(tmp_path / "eval"),
            device="$torch.device('cpu')",
            **overrides,
        )
        workflow.initialize()
        assert not workflow.check_properties()  # what MONAI asks of a workflow for inference
        workflow.run()
        workflow.finalize()
        return nib.load(tmp_path / "eval" / "mri_fused.nii.gz")

    return call


def test_it_writes_the_volume_that_the_script_writes(
    fused, weights, pair, run_script, tmp_path, monkeypatch
):
    monkeypatch.setattr("inference.fuse.LEAST_WINDOW", 24)  # below the head's sides
    output = tmp_path / "f.nii.gz"
    flags = ("--mri", pair[0], "--pet", pair[1], "--checkpoint", weights, "--output", output)
    status, _, err = run_script(infer_sigleImage.main, *flags)
    assert status == 0, err
    theirs, ours = fused(), nib.load(output)
    np.testing.assert_allclose(theirs.get_fdata(), ours.get_fdata(), atol=1e-6)
    assert theirs.header.binaryblock == ours.header.binaryblock
    assert ours.get_fdata().max() > 0.1
    assert abs(fused(balance=0.9).get_fdata() - ours.get_fdata()).max() > 0.01
    assert abs(fused(refine=0).get_fdata() - ours.get_fdata()).max() > 1e-3


def test_one_network_of_two_channels(folder, weights):
    trained = load_model(weights)
    network = bundle.TwoChannels(trained.model, 64)
    image = torch.rand(2, 2, 20, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = trained.model(image[:, :1], image[:, 1:]).clamp(0, 1)
        torch.testing.assert_close(network(image), apart)


def test_what_is_refused(folder, weights, refuses, tmp_path):
    refuses(bundle.main, "--out", folder, "--checkpoint", weights, names=("bundle", "new one"))
    refuses(bundle.main, "--out", tmp_path / "b", "--checkpoint", "no.pt", names=("no.pt",))
    assert not (tmp_path / "b").exists()
