"""infer_sigleImage.py at its boundary: volumes in, a fused NIfTI on the MRI's own grid out."""

import gzip
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

import infer_sigleImage
from data.volume import read_pair, read_volume
from losses import build_objective
from models import build_model
from tests.helpers.golden import golden, rule_filled_released_state, shared_file
from tests.helpers.launched import torchrun
from tests.helpers.runs import save_small_weights
from training import checkpoint, weights
from training.build import build_network
from training.config import TrainConfig


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run folder with an untrained network of 40^3."""
    folder = tmp_path_factory.mktemp("result") / "run"
    folder.mkdir()
    torch.manual_seed(0)
    config = TrainConfig(embed_dim=24, size=40)
    model = build_network(config)
    optimizer = torch.optim.Adam(model.parameters())
    state = {
        "config": config.to_dict(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    checkpoint.save(
        folder / "last.pt",
        {**state, "epoch": 1, "step": 1, "best": 0.1, "rng": checkpoint.rng_states()},
    )
    return folder


def test_the_result_lies_on_the_mri_in_every_header_field(pair, run_folder, run_script, tmp_path):
    mri, pet = pair
    output = tmp_path / "out" / "fused.nii.gz"
    flags = ("--mri", mri, "--pet", pet, "--output", output, "--checkpoint", run_folder)
    status, out, err = run_script(infer_sigleImage.main, *flags)
    assert status == 0, err
    fused, source = nib.load(output), nib.load(mri)
    assert fused.shape == source.shape
    assert np.array_equal(fused.affine, source.affine)
    for field in ("sform_code", "qform_code", "xyzt_units"):
        assert fused.header[field] == source.header[field], field
    assert fused.get_data_dtype() == np.float32
    values = fused.get_fdata()
    assert values.min() >= 0 and values.max() <= 1 and values.max() > 0
    assert not values[np.asarray(source.dataobj) == 0].any()
    with Image.open(output.with_name("fused.png")) as picture:
        assert min(picture.size) > 300
    names = ["fused.json", "fused.nii.gz", "fused.png"]
    assert [p.name for p in sorted(output.parent.iterdir())] == names
    for row in ("fused", "average", "copy of the MRI"):
        assert any(line.startswith(row) for line in out.splitlines())
    for metric in ("PSNR", "SSIM", "NMI"):
        assert metric in out


def scaled(array: np.ndarray) -> np.ndarray:
    return (array - array.min()) / np.ptp(array)


@pytest.mark.parametrize("resolution", ["published", "native"])
def test_orientation_of_the_files_does_not_change_the_result_in_the_world(
    head, head_affine, write_nifti, run_folder, run_script, tmp_path, resolution
):
    pet = ndimage.gaussian_filter(head, 1) * (head > 0)
    results = {}
    for codes in ("RAS", "LAS", "PSR"):
        files = [
            write_nifti(f"{codes}_{name}.nii.gz", a, head_affine, codes)
            for name, a in (("m", head), ("p", pet))
        ]
        output = tmp_path / f"{codes}.nii.gz"
        flags = (
            "--mri",
            files[0],
            "--pet",
            files[1],
            "--output",
            output,
            "--checkpoint",
            run_folder,
        )
        status, _, err = run_script(infer_sigleImage.main, *flags, "--resolution", resolution)
        assert status == 0, err
        image = nib.load(output)
        assert nib.aff2axcodes(image.affine) == tuple(codes)
        world = nib.as_closest_canonical(image)
        np.testing.assert_allclose(world.affine, head_affine, atol=1e-5)
        results[codes] = world.get_fdata()
    np.testing.assert_allclose(results["LAS"], results["RAS"], atol=1e-6)
    np.testing.assert_allclose(results["PSR"], results["RAS"], atol=1e-6)


def test_native_voxels_are_the_default_but_for_the_released_recipe(
    pair, run_folder, run_script, tmp_path
):
    content = checkpoint.read(run_folder / "last.pt")
    content["config"] |= {"recipe": "released"}
    torch.save(content, tmp_path / "released.pt")

    def fused(name, *flags):
        flags += ("--mri", pair[0], "--pet", pair[1], "--output", tmp_path / name)
        status, _, err = run_script(infer_sigleImage.main, *flags)
        assert status == 0, err
        return nib.load(tmp_path / name).get_fdata()

    paper, released = ("--checkpoint", run_folder), ("--checkpoint", tmp_path / "released.pt")
    native, published = ("--resolution", "native"), ("--resolution", "published")
    np.testing.assert_array_equal(fused("a.nii", *paper), fused("b.nii", *paper, *native))
    np.testing.assert_array_equal(fused("c.nii", *released), fused("d.nii", *released, *published))
    assert abs(fused("e.nii", *paper) - fused("f.nii", *paper, *published)).max() > 0.01


def test_a_pet_on_another_grid_is_brought_to_the_mri_with_a_notice(
    pair, head, head_affine, write_nifti, run_folder, run_script, tmp_path
):
    affine = head_affine.copy()
    affine[0, 3] += 3
    shifted = write_nifti("shifted.nii.gz", head, affine)
    flags = (
        "--mri",
        pair[0],
        "--pet",
        shifted,
        "--output",
        tmp_path / "f.nii",
        "--checkpoint",
        run_folder,
    )
    status, _, err = run_script(infer_sigleImage.main, *flags)
    assert status == 0
    assert "notice: " in err and "shifted.nii.gz" in err and "resampled" in err


def test_a_released_checkpoint_fuses(pair, run_script, tmp_path):
    torch.save(rule_filled_released_state(), tmp_path / "released.pth")
    flags = ("--mri", pair[0], "--pet", pair[1], "--output", tmp_path / "f.nii.gz", "--size", 40)
    flags += ("--checkpoint", tmp_path / "released.pth", "--variant", "released")
    status, out, err = run_script(infer_sigleImage.main, *flags)
    assert status == 0, err
    assert "50 tensors skipped" in out


@pytest.mark.parametrize("resolution", ["published", "native"])
def test_a_run_of_a_2d_method_fuses(pair, run_folder, run_script, tmp_path, resolution):
    """At any resolution the network gets whole slices: no windows, no stream maps."""
    config = TrainConfig.of({"model": "matr", "size": 16})
    model = build_network(config)
    content = checkpoint.read(run_folder / "last.pt") | {
        "config": config.to_dict(),
        "model": model.state_dict(),
    }
    torch.save(content, tmp_path / "last.pt")
    flags = (
        "--mri",
        pair[0],
        "--pet",
        pair[1],
        "--output",
        tmp_path / "f.nii.gz",
        "--resolution",
        resolution,
    )
    status, out, err = run_script(
        infer_sigleImage.main, *flags, "--checkpoint", tmp_path / "last.pt"
    )
    assert status == 0, err
    assert "matr, on axial slices" in out
    for row in ("fused", "average", "copy of the MRI"):
        assert any(line.startswith(row) for line in out.splitlines())
    assert nib.load(tmp_path / "f.nii.gz").shape == nib.load(pair[0]).shape


def test_without_arguments_the_weights_of_the_code_fuse_a_synthetic_subject(
    run_script, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "weights" / "dc2fusion.safetensors")
    save_small_weights(weights.SHIPPED)
    status, out, err = run_script(infer_sigleImage.main)
    assert status == 0, err
    assert err.count("the weights that come with the code") == 1 and "synthetic" in err
    assert f"{weights.SHIPPED}: dc2fusion" in out
    assert len(list((tmp_path / "result" / "fused").glob("*_fused.nii.gz"))) == 1


def test_the_newest_run_is_taken_by_name(run_folder, run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, tmp_path / "result" / "mine")
    newer = shutil.copytree(run_folder, tmp_path / "result" / "of-another-method")
    (newer / "config.json").write_text('{"model": "matr"}')
    os.utime(newer / "last.pt", (2e9, 2e9))
    flags = ("--checkpoint", "newest")
    status, _, err = run_script(infer_sigleImage.main, *flags)
    assert status == 0, err
    assert "result/mine" in err and "synthetic" in err
    assert len(list((tmp_path / "result" / "fused").glob("*_fused.nii.gz"))) == 1
    assert run_script(infer_sigleImage.main, *flags)[0] == 0  # and once more, over its own result


def test_a_second_subject_of_the_same_file_name_is_not_written_over_the_first(
    pair, run_folder, run_script, refuses, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flags = ("--mri", pair[0], "--pet", pair[1], "--checkpoint", run_folder)
    assert run_script(infer_sigleImage.main, *flags)[0] == 0
    refuses(infer_sigleImage.main, *flags, names=("mri_fused.nii.gz", "--overwrite"))


def test_a_picture_is_not_replaced_unless_asked(pair, run_folder, refuses, tmp_path):
    (tmp_path / "f.png").write_text("precious")
    flags = (
        "--mri",
        pair[0],
        "--pet",
        pair[1],
        "--output",
        tmp_path / "f.nii.gz",
        "--checkpoint",
        run_folder,
    )
    refuses(infer_sigleImage.main, *flags, names=("f.png", "--overwrite"))
    assert (tmp_path / "f.png").read_text() == "precious" and not (tmp_path / "f.nii.gz").exists()


class TestMany:
    def test_a_table_of_one_pair_behaves_like_one_of_many(
        self, pair, run_folder, run_script, tmp_path
    ):
        (tmp_path / "pairs.csv").write_text(f"subject,mri,pet\none,{pair[0]},{pair[1]}\n")
        flags = (
            "--list",
            tmp_path / "pairs.csv",
            "--output",
            tmp_path / "out",
            "--checkpoint",
            run_folder,
        )
        assert "1 fused" in run_script(infer_sigleImage.main, *flags)[1]
        status, out, _ = run_script(infer_sigleImage.main, *flags)
        assert status == 0 and "1 skipped" in out

    def test_a_data_set(self, synthetic_cohort, run_folder, run_script, tmp_path):
        flags = (
            "--data",
            synthetic_cohort,
            "--output",
            tmp_path / "out",
            "--checkpoint",
            run_folder,
        )
        status, out, err = run_script(infer_sigleImage.main, *flags)
        assert status == 0, err
        names = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
        assert names == [f"synthetic-00{i}_fused.nii.gz" for i in (1, 2, 3)]
        status, out, _ = run_script(infer_sigleImage.main, *flags)
        assert status == 0 and "3 skipped" in out

    def test_a_bad_pair_is_reported_and_the_others_are_made(
        self, pair, head_affine, write_nifti, run_folder, run_script, tmp_path
    ):
        empty = write_nifti("empty.nii.gz", np.zeros((9, 9, 9), np.float32), head_affine)
        lines = [
            "subject,mri,pet",
            f"good,{pair[0]},{pair[1]}",
            f"bad,{pair[0]},{empty}",
            f"also,{pair[0]},{pair[1]}",
        ]
        (tmp_path / "pairs.csv").write_text("\n".join(lines))
        flags = (
            "--list",
            tmp_path / "pairs.csv",
            "--output",
            tmp_path / "out",
            "--checkpoint",
            run_folder,
        )
        status, out, err = run_script(infer_sigleImage.main, *flags)
        assert status == 2
        assert "error: " in err and "empty.nii.gz" in err
        assert "2 fused, 0 skipped" in out and "1 failed bad" in out
        made = {path.name for path in (tmp_path / "out").iterdir()}
        assert made == {
            f"{name}_fused.{kind}"
            for name in ("good", "also")
            for kind in ("nii.gz", "png", "json")
        }

    def test_a_pair_that_fails_in_any_way_leaves_the_others_going(
        self, pair, run_folder, run_script, tmp_path, monkeypatch
    ):
        lines = ["subject,mri,pet", *(f"{name},{pair[0]},{pair[1]}" for name in ("a", "b", "c"))]
        (tmp_path / "pairs.csv").write_text("\n".join(lines))
        calls, real = [], infer_sigleImage.fuse.fuse_pair

        def fuse_pair(*arguments, **options):
            calls.append(1)
            if len(calls) == 2:
                raise ZeroDivisionError("made to fail")
            return real(*arguments, **options)

        monkeypatch.setattr("inference.fuse.fuse_pair", fuse_pair)
        flags = "--list", tmp_path / "pairs.csv", "--output", tmp_path / "out"
        status, out, err = run_script(infer_sigleImage.main, *flags, "--checkpoint", run_folder)
        assert status == 2 and "2 fused, 0 skipped" in out and "1 failed b" in out
        assert "error: b: ZeroDivisionError made to fail (test_infer.py:" in err
        assert "Traceback" not in err

    def test_a_result_that_was_cut_off_is_completed(
        self, pair, run_folder, run_script, tmp_path, monkeypatch
    ):
        (tmp_path / "pairs.csv").write_text(f"subject,mri,pet\none,{pair[0]},{pair[1]}\n")
        out, real = tmp_path / "out", os.replace
        flags = "--list", tmp_path / "pairs.csv", "--output", out, "--checkpoint", run_folder

        def replace(source, target):
            if target == out / "one_fused.nii.gz":
                raise KeyboardInterrupt
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr("os.replace", replace)
            assert run_script(infer_sigleImage.main, *flags)[0] == 130
        names = {"one_fused.png", "one_fused.json", "one_fused.nii.gz"}
        assert {path.name for path in out.iterdir()} == names - {"one_fused.nii.gz"}
        status, said, err = run_script(infer_sigleImage.main, *flags)
        assert status == 0 and "1 fused, 0 skipped" in said and "half of its result" in err
        assert {path.name for path in out.iterdir()} == names
        (out / "one_fused.png").unlink()  # as earlier versions left it
        assert "1 fused" in run_script(infer_sigleImage.main, *flags)[1]
        assert {path.name for path in out.iterdir()} == names
        status, said, _ = run_script(infer_sigleImage.main, *flags, "--colour")
        assert status == 0 and (out / "one_fused_colour.nii.gz").exists()

    def test_a_half_of_another_making_is_not_completed(
        self, pair, run_folder, refuses, run_script, tmp_path
    ):
        (tmp_path / "pairs.csv").write_text(f"subject,mri,pet\none,{pair[0]},{pair[1]}\n")
        out = tmp_path / "out"
        out.mkdir()
        before = shutil.copy(pair[0], out / "one_fused.nii.gz").read_bytes()
        flags = "--list", tmp_path / "pairs.csv", "--output", out, "--checkpoint", run_folder
        names = ("one_fused.nii.gz", "made in another way", "--overwrite")
        refuses(infer_sigleImage.main, *flags, names=names)
        assert [path.name for path in out.iterdir()] == ["one_fused.nii.gz"]
        assert (out / "one_fused.nii.gz").read_bytes() == before

    def test_doubts_stand_in_the_record_and_at_the_end(
        self, synthetic_cohort, run_folder, run_script, tmp_path
    ):
        mri = synthetic_cohort / "synthetic-001" / "synthetic-001_mri_MNI152.nii.gz"
        pet = nib.load(synthetic_cohort / "synthetic-001" / "synthetic-001_FDG_MNI152.nii.gz")
        affine = pet.affine.copy()
        affine[1, 3] += 15
        nib.save(nib.Nifti1Image(np.asarray(pet.dataobj), affine), tmp_path / "shifted.nii.gz")
        table = f"subject,mri,pet\nwrong,{mri},{tmp_path / 'shifted.nii.gz'}\n"
        (tmp_path / "pairs.csv").write_text(table)
        out = tmp_path / "out"
        flags = "--list", tmp_path / "pairs.csv", "--output", out, "--checkpoint", run_folder
        _, said, err = run_script(infer_sigleImage.main, *flags)
        record = json.loads((out / "wrong_fused.json").read_text())
        (doubt,) = record["Doubts"]
        assert "moved by" in doubt and "to the back" in doubt
        assert err.count(doubt) == 1 and any("resampled" in line for line in record["Notices"])
        end = [f"wrong  {doubt}", "nothing speaks against 0 of 1 pairs"]
        assert said.splitlines()[-2:] == end
        assert run_script(infer_sigleImage.main, *flags)[1].splitlines()[-2:] == end  # skipped now

    def test_any_case_of_the_endings(self, pair, run_folder, run_script, refuses, tmp_path):
        mri, pet = (path.rename(path.with_name(path.name.upper())) for path in pair)
        output = tmp_path / "out" / "FUSED.Nii.GZ"
        flags = "--mri", mri, "--pet", pet, "--output", output, "--checkpoint", run_folder
        status, _, err = run_script(infer_sigleImage.main, *flags)
        assert status == 0, err
        made = {path.name for path in output.parent.iterdir()}
        assert made == {"FUSED.Nii.GZ", "FUSED.png", "FUSED.json"}
        assert output.read_bytes()[:2] == b"\x1f\x8b" and read_volume(output).array.any()
        (tmp_path / "pairs.csv").write_text(f"mri,pet\n{mri},{pet}\n")
        flags = "--list", tmp_path / "pairs.csv", "--output", tmp_path / "x.NII.gz"
        refuses(infer_sigleImage.main, *flags, "--checkpoint", run_folder, names=("no folder",))


def test_a_volume_below_the_window_has_no_ssim_and_that_is_said_once(
    head, head_affine, write_nifti, run_folder, run_script, tmp_path
):
    thin = head[:, :, 3:12]
    files = [write_nifti(f"{name}.nii", thin, head_affine) for name in ("mri", "pet")]
    flags = "--mri", files[0], "--pet", files[1], "--output", tmp_path / "fused.nii"
    status, out, err = run_script(infer_sigleImage.main, *flags, "--checkpoint", run_folder)
    assert status == 0, err
    assert "nan / nan" in out and err.count("SSIM has no value (nan)") == 1
    assert "Warning" not in err


class TestPublishedWeights:
    """Their networks are tested elsewhere; here, that they fuse the volumes that the flags name."""

    FILES = {
        "matr": "matr_weights",
        "dilran": "dilran_weights",
        "u2fusion": "u2fusion_weights_decoder",
    }

    @pytest.mark.parametrize("method", FILES)
    def test_native_resolution_is_the_method_on_the_mris_own_slices(
        self, pair, run_script, tmp_path, method
    ):
        weights = golden(f"baselines/{self.FILES[method]}.npz")
        flags = (
            "--mri",
            pair[0],
            "--pet",
            pair[1],
            "--output",
            tmp_path / "f.nii.gz",
            "--resolution",
            "native",
        )
        status, out, err = run_script(
            infer_sigleImage.main, *flags, "--weights", f"{method}={weights}", "--plane", "coronal"
        )
        assert status == 0, err
        assert f"published weights of {method}, on coronal slices" in out
        mri, pet = read_pair(*pair)
        box = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(mri.array))
        inputs = [torch.from_numpy(scaled(volume.array[box]))[None, None] for volume in (mri, pet)]
        with torch.no_grad():
            expected = (
                build_model(method, weights=weights, plane="coronal").eval()(*inputs)[0, 0].numpy()
            )
        fused = nib.as_closest_canonical(nib.load(tmp_path / "f.nii.gz")).get_fdata()
        np.testing.assert_allclose(fused[box], np.where(mri.array[box] > 0, expected, 0), atol=1e-5)
        assert not fused[mri.array == 0].any()

    def test_published_resolution_and_options(self, pair, run_script, tmp_path):
        torch.manual_seed(0)
        torch.save(build_model("dilran").method.state_dict(), tmp_path / "last.pt")
        results = []
        for name in ("dilran", "dilran:statistics=running"):
            flags = (
                "--mri",
                pair[0],
                "--pet",
                pair[1],
                "--output",
                tmp_path / "f.nii",
                "--size",
                24,
                "--overwrite",
            )
            status, out, err = run_script(
                infer_sigleImage.main, *flags, "--weights", f"{name}={tmp_path}/last.pt"
            )
            assert status == 0, err
            results.append(nib.load(tmp_path / "f.nii").get_fdata())
        assert "statistics=running" in out
        assert results[0].shape == results[1].shape == nib.load(pair[0]).shape
        assert abs(results[0] - results[1]).max() > 0.01

    @pytest.mark.parametrize(
        ("flags", "names"),
        [
            (("--weights", "matr=w.pth", "--checkpoint", "run"), ("--checkpoint", "--weights")),
            (("--weights", "matr=w.pth", "--variant", "paper"), ("--variant", "--weights")),
            (("--checkpoint", "run", "--plane", "coronal"), ("--plane", "--weights")),
            (("--weights", "matr=w.pth"), ("w.pth", "No such file")),
            (("--weights", "w.pth"), ("--weights", "METHOD=FILE")),
        ],
    )
    def test_flags(self, refuses, pair, tmp_path, monkeypatch, flags, names):
        monkeypatch.chdir(tmp_path)
        refuses(infer_sigleImage.main, "--mri", pair[0], "--pet", pair[1], *flags, names=names)
        assert not (tmp_path / "result").exists()


def test_two_processes_fuse_what_one_does(run_folder, run_script, synthetic_cohort, tmp_path):
    flags = ("--data", synthetic_cohort, "--checkpoint", run_folder, "--output")
    assert run_script(infer_sigleImage.main, *flags, tmp_path / "alone")[0] == 0
    status, out, err = torchrun("infer_sigleImage.py", *flags, "shared", folder=tmp_path)
    assert status == 0, err
    assert out.count("3 fused, 0 skipped") == 1
    names = sorted(path.name for path in (tmp_path / "alone").glob("*.nii.gz"))
    assert len(names) == 3
    for name in names:
        alone, shared = (nib.load(tmp_path / folder / name) for folder in ("alone", "shared"))
        np.testing.assert_allclose(shared.get_fdata(), alone.get_fdata(), atol=1e-5)


class TestBadInput:
    @pytest.fixture
    def refuse(self, refuses, run_folder, tmp_path, monkeypatch):
        """Function (mri, pet, *names): fusing them is refused, and nothing is written."""
        monkeypatch.chdir(tmp_path)

        def check(mri, pet, *names):
            output = tmp_path / "result" / "out.nii.gz"
            flags = ("--mri", mri, "--pet", pet, "--output", output, "--checkpoint", run_folder)
            refuses(infer_sigleImage.main, *flags, names=names)
            assert not output.parent.exists()

        return check

    def test_missing(self, refuse, pair):
        refuse("nowhere.nii.gz", pair[1], "nowhere.nii.gz")

    def test_not_a_nifti(self, refuse, pair, tmp_path):
        (tmp_path / "x.nii").write_text("this is no image" * 100)
        refuse(tmp_path / "x.nii", pair[1], "x.nii")

    def test_truncated_gzip(self, refuse, pair):
        pair[1].write_bytes(pair[1].read_bytes()[:500])
        refuse(*pair, "pet.nii.gz")

    def test_several_frames(self, refuse, pair, tmp_path):
        nib.save(
            nib.Nifti1Image(np.random.rand(9, 9, 9, 4).astype(np.float32), np.eye(4)),
            tmp_path / "4d.nii.gz",
        )
        refuse(pair[0], tmp_path / "4d.nii.gz", "4d.nii.gz", "4")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, refuse, pair, head, head_affine, write_nifti, value):
        bad = head.copy()
        bad[9, 9, 9] = value
        refuse(write_nifti("bad.nii.gz", bad, head_affine), pair[1], "bad.nii.gz")

    @pytest.mark.parametrize("value", [0.0, 7.0])
    def test_constant(self, refuse, pair, head, head_affine, write_nifti, value):
        refuse(
            pair[0],
            write_nifti("flat.nii.gz", np.full_like(head, value), head_affine),
            "flat.nii.gz",
        )

    def test_voxel_size_zero(self, refuse, pair):
        with gzip.open(pair[0]) as file:
            raw = bytearray(file.read())
        raw[80:84] = np.float32(0).tobytes()  # pixdim[1]
        with gzip.open(pair[0], "wb") as file:
            file.write(raw)
        refuse(*pair, "mri.nii.gz")

    def test_no_overlap(self, refuse, pair, head, head_affine, write_nifti):
        far = head_affine.copy()
        far[2, 3] += 500
        refuse(pair[0], write_nifti("far.nii.gz", head, far), "far.nii.gz")

    def test_checkpoint_of_another_architecture(self, refuses, pair, tmp_path):
        torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
        flags = ("--mri", pair[0], "--pet", pair[1], "--output", tmp_path / "f.nii", "--checkpoint")
        refuses(infer_sigleImage.main, *flags, tmp_path / "linear.pt", names=("linear.pt",))
        assert not (tmp_path / "f.nii").exists()

    def test_a_network_whose_output_is_not_finite(self, refuses, pair, run_folder, tmp_path):
        content = checkpoint.read(run_folder / "last.pt")
        content["model"]["head.to_maps.bias"].fill_(torch.nan)
        torch.save(content, tmp_path / "nan.pt")
        flags = ("--mri", pair[0], "--pet", pair[1], "--output", tmp_path / "out" / "f.nii")
        refuses(
            infer_sigleImage.main,
            *flags,
            "--checkpoint",
            tmp_path / "nan.pt",
            names=("nan.pt", "NaN"),
        )
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("flags", "names"),
        [
            (("--mri", "m.nii"), ("--pet", "--mri")),
            (("--mri", "m.nii", "--pet", "p.nii", "--data", "."), ("--data",)),
            (("--data", "."), (".",)),
            (("--list", "no.csv"), ("no.csv",)),
            (("--resolution", "high"), ("--resolution", "high")),
        ],
    )
    def test_flags(self, refuses, run_folder, tmp_path, monkeypatch, flags, names):
        monkeypatch.chdir(tmp_path)
        refuses(infer_sigleImage.main, "--checkpoint", run_folder, *flags, names=names)

    def test_an_empty_table(self, refuses, run_folder, tmp_path):
        (tmp_path / "pairs.csv").write_text("mri,pet\n")
        refuses(
            infer_sigleImage.main,
            "--list",
            tmp_path / "pairs.csv",
            "--checkpoint",
            run_folder,
            names=("pairs.csv",),
        )

    def test_no_run_to_take(self, refuses, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        flags = ("--checkpoint", "newest")
        refuses(infer_sigleImage.main, *flags, names=("--checkpoint", "make demo"))

    def test_no_weights(self, refuses, tmp_path, monkeypatch):
        monkeypatch.setattr(weights, "SHIPPED", tmp_path / "dc2fusion.safetensors")
        names = ("dc2fusion.json", "no such file", "git checkout weights", "--checkpoint")
        refuses(infer_sigleImage.main, names=names)

    def test_damaged_weights(self, refuses, pair, tmp_path, monkeypatch):
        monkeypatch.setattr(weights, "SHIPPED", tmp_path / "dc2fusion.safetensors")
        save_small_weights(weights.SHIPPED)
        content = bytearray(weights.SHIPPED.read_bytes())
        content[len(content) // 2] ^= 1
        weights.SHIPPED.write_bytes(content)
        names = ("dc2fusion.safetensors", "SHA-256", "git checkout weights")
        flags = ("--mri", pair[0], "--pet", pair[1], "--output", tmp_path / "f.nii.gz")
        refuses(infer_sigleImage.main, *flags, names=names)
        assert not (tmp_path / "f.nii.gz").exists()

    def test_an_output_is_not_replaced_unless_asked(
        self, refuses, run_script, pair, run_folder, tmp_path
    ):
        (tmp_path / "mine.nii.gz").write_text("precious")
        flags = (
            "--mri",
            pair[0],
            "--pet",
            pair[1],
            "--output",
            tmp_path / "mine.nii.gz",
            "--checkpoint",
            run_folder,
        )
        refuses(infer_sigleImage.main, *flags, names=("mine.nii.gz", "--overwrite"))
        assert (tmp_path / "mine.nii.gz").read_text() == "precious"
        assert run_script(infer_sigleImage.main, *flags, "--overwrite")[0] == 0


def test_the_real_template_pair_keeps_its_grid(run_folder, run_script, tmp_path):
    folder = shared_file("data", "pairs", "template")
    mri = folder / "template_mri_MNI152.nii.gz"
    output = tmp_path / "fused.nii.gz"
    flags = ("--mri", mri, "--pet", folder / "template_FDG_MNI152.nii.gz", "--output", output)
    status, _, err = run_script(infer_sigleImage.main, *flags, "--checkpoint", run_folder)
    assert status == 0, err
    fused, source = nib.load(output), nib.load(mri)
    assert fused.shape == source.shape and np.array_equal(fused.affine, source.affine)


# Refinement --------------------------------------------------------------------------------------


@pytest.fixture
def larger_pair(write_nifti):
    """A pair of 24^3 smooth volumes of 8 mm with a dark border."""
    noise = np.random.default_rng(3).standard_normal((2, 24, 24, 24))
    smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))
    smooth = (smooth - smooth.min() + 0.1).astype(np.float32)
    smooth[:, [0, -1]] = 0
    return [
        write_nifti(f"{name}.nii.gz", array, np.diag([8.0, 8, 8, 1]))
        for name, array in zip(("mri", "pet"), smooth, strict=True)
    ]


@pytest.mark.parametrize("resolution", ["published", "native"])
def test_refined_results_have_less_loss_and_repeat(
    larger_pair, run_folder, run_script, tmp_path, resolution
):
    mri, pet = larger_pair
    volumes = {}
    for name, extra in {
        "plain": (),
        "refined": ("--refine", 20),
        "again": ("--refine", 20),
        "other": ("--refine", 20, "--objective", "salient-additive:1:1"),
    }.items():
        output = tmp_path / f"{name}.nii.gz"
        flags = ("--mri", mri, "--pet", pet, "--output", output, "--checkpoint", run_folder)
        flags = (*flags, "--resolution", resolution, *extra)
        status, out, err = run_script(infer_sigleImage.main, *flags)
        assert status == 0, err
        volumes[name] = torch.from_numpy(nib.load(output).get_fdata(dtype=np.float32))
        if name == "refined":
            assert "20 steps of ssim-gradient-intensity:2:1:2:1:2:1" in out
    assert torch.equal(volumes["refined"], volumes["again"])
    assert not torch.equal(volumes["refined"], volumes["other"])
    sources = [torch.from_numpy(scaled(nib.load(file).get_fdata())).float() for file in (mri, pet)]
    objective = build_objective("ssim-gradient-intensity")

    def loss(volume):
        return objective(volume[None, None], *(s[None, None] for s in sources))[0]

    assert loss(volumes["refined"]) < loss(volumes["plain"])


def test_weights_say_how_many_steps_their_output_is_to_have(larger_pair, run_script, tmp_path):
    weights_file = tmp_path / "w.safetensors"
    save_small_weights(weights_file, refine=2)
    volumes, pages = {}, {}
    for name, extra in {
        "own": (),
        "asked": ("--refine", 2),
        "none": ("--refine", 0),
        "other": ("--objective", "salient-additive:1:1"),
    }.items():
        output = tmp_path / f"{name}.nii.gz"
        flags = ("--mri", larger_pair[0], "--pet", larger_pair[1], "--output", output, "--page")
        status, out, err = run_script(
            infer_sigleImage.main, *flags, "--checkpoint", weights_file, *extra
        )
        assert status == 0, err
        assert ("refined by 2 steps" in out) == (name != "none")
        record = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))["Settings"]
        assert record["refine"] == (0 if name == "none" else 2)
        assert record["objective"].startswith("salient-additive:1:1") == (name == "other")
        volumes[name] = nib.load(output).get_fdata(dtype=np.float32)
        pages[name] = (tmp_path / f"{name}.html").read_text("utf-8")
    assert np.array_equal(volumes["own"], volumes["asked"])
    for name in ("none", "other"):
        assert abs(volumes["own"] - volumes[name]).max() > 1e-3
    blended = "between them the page blends"
    assert blended in pages["own"] and blended not in pages["other"]  # of one objective


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--objective", "salient-additive"), ("--objective", "--refine")),
        (("--refine", 3, "--objective", "dice"), ("--objective", "dice")),
        (("--refine", -1), ("--refine", "negative")),
    ],
)
def test_wrong_refinements_are_refused(refuses, pair, run_folder, tmp_path, flags, names):
    mri, pet = pair
    where = ("--mri", mri, "--pet", pet, "--output", tmp_path / "f.nii.gz")
    refuses(infer_sigleImage.main, *where, "--checkpoint", run_folder, *flags, names=names)


def test_a_2d_method_is_refined_by_a_named_objective_only(refuses, pair, tmp_path):
    mri, pet = pair
    torch.manual_seed(0)
    torch.save(build_model("matr").method.state_dict(), tmp_path / "matr.pth")
    where = ("--mri", mri, "--pet", pet, "--output", tmp_path / "f.nii.gz")
    flags = ("--weights", f"matr={tmp_path / 'matr.pth'}", "--refine", 2)
    refuses(infer_sigleImage.main, *where, *flags, names=("--refine", "matr", "--objective"))
