"""Published weight files: all forms are read, all tensors accounted for, misfits named."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from models import build_model, slicewise_names
from models.baselines.dilran import DILRAN
from models.baselines.matr import MATR
from models.baselines.u2fusion import U2Fusion
from models.baselines.weights import WeightsError, load_weights
from tests.helpers.golden import golden

DATA = "model.ckpt.data-00000-of-00001"


def assert_same_tensors(network: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    loaded = network.state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


def as_variables(network: U2Fusion) -> dict[str, np.ndarray]:
    """The parameters under the names and in the layout of the published TensorFlow graph."""
    scopes = {"encoder": "Generator/encoder", "decoder": "Generator_1/decoder"}
    variables = {}
    for name, tensor in network.state_dict().items():
        part, layer, kind = name.split(".")
        array = tensor.numpy()
        variable = "kernel" if kind == "weight" else "bias"
        variables[f"{scopes[part]}/{layer}/{variable}"] = (
            np.moveaxis(array, (2, 3), (0, 1)).swapaxes(2, 3) if array.ndim == 4 else array
        )
    return variables


def write_checkpoint(folder: Path, variables: dict[str, np.ndarray]) -> Path:
    """A TensorFlow-1 bundle: values without gaps by name; the other two files are not read."""
    folder.mkdir()
    ordered = [variables[name].astype("<f4").tobytes() for name in sorted(variables)]
    (folder / DATA).write_bytes(b"".join(ordered))
    for suffix in ("index", "meta"):
        (folder / f"model.ckpt.{suffix}").write_bytes(b"not read")
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    return folder


@pytest.fixture
def network() -> U2Fusion:
    network = U2Fusion()
    for parameter in network.parameters():  # biases start at 0, where a mistake would not show
        torch.nn.init.normal_(parameter)
    return network


@pytest.mark.parametrize("named", ["", "model.ckpt", "model.ckpt.index", "model.ckpt.meta", DATA])
def test_tensorflow_checkpoint_by_any_of_its_names(network, tmp_path, named):
    folder = write_checkpoint(tmp_path / "model", as_variables(network))
    loaded = U2Fusion()
    assert load_weights(loaded, folder / named) == []
    assert_same_tensors(loaded, network.state_dict())


def test_golden_arrays_as_a_tensorflow_checkpoint(tmp_path):
    files = [golden(f"baselines/u2fusion_weights_{half}.npz") for half in ("encoder", "decoder")]
    variables = {name: array for file in files for name, array in np.load(file).items()}
    folder = write_checkpoint(tmp_path / "model", variables)
    assert (folder / DATA).stat().st_size == 2_636_868  # that of the published file
    from_arrays, from_checkpoint = U2Fusion(), U2Fusion()
    load_weights(from_arrays, files[0])
    load_weights(from_checkpoint, folder / "model.ckpt")
    assert_same_tensors(from_checkpoint, from_arrays.state_dict())
    kernel = variables["Generator/encoder/dense_block_conv2/kernel"]
    assert from_arrays.encoder.dense_block_conv2.weight[7, 5, 0, 2].item() == kernel[0, 2, 5, 7]


@pytest.mark.parametrize("change", [-4, 4, 1])
def test_tensorflow_checkpoint_of_another_size_is_refused(network, tmp_path, change):
    folder = write_checkpoint(tmp_path / "model", as_variables(network))
    content = (folder / DATA).read_bytes()
    (folder / DATA).write_bytes(content[:change] if change < 0 else content + bytes(change))
    loaded = U2Fusion()
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    with pytest.raises(
        ValueError, match=f"has {2_636_868 + change} bytes, the 20 float32 variables.*2636868"
    ):
        load_weights(loaded, folder)
    assert_same_tensors(loaded, before)


def test_folder_of_two_tensorflow_checkpoints_is_refused(network, tmp_path):
    folder = write_checkpoint(tmp_path / "model", as_variables(network))
    shutil.copy(folder / DATA, folder / "other.ckpt.data-00000-of-00001")
    with pytest.raises(ValueError, match="2 TensorFlow checkpoints.*other"):
        load_weights(U2Fusion(), folder)
    load_weights(U2Fusion(), folder / "other.ckpt")


def test_tensorflow_checkpoint_of_a_method_without_one_is_refused(network, tmp_path):
    folder = write_checkpoint(tmp_path / "model", as_variables(network))
    with pytest.raises(ValueError, match="MATR has no TensorFlow checkpoint"):
        load_weights(MATR(), folder)


def test_index_without_its_data_file_is_missing(tmp_path):
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="data-00000"):
        load_weights(U2Fusion(), tmp_path / "model.ckpt.index")


def save_halves(folder: Path, variables: dict[str, np.ndarray]) -> list[Path]:
    files = []
    for half in ("encoder", "decoder"):
        files.append(folder / f"u2_{half}.npz")
        np.savez(
            files[-1], **{name: array for name, array in variables.items() if f"/{half}/" in name}
        )
    return files


def test_arrays_in_two_files_by_either_or_by_their_folder(network, tmp_path):
    files = save_halves(tmp_path, as_variables(network))
    for path in (*files, tmp_path):
        loaded = U2Fusion()
        assert load_weights(loaded, path) == []
        assert_same_tensors(loaded, network.state_dict())


def test_half_of_the_arrays_is_refused(network, tmp_path):
    encoder, decoder = save_halves(tmp_path, as_variables(network))
    decoder.unlink()
    with pytest.raises(
        ValueError, match=r"lacks 8 of the 20 tensors of U2Fusion: decoder\.conv2_1"
    ):
        load_weights(U2Fusion(), encoder)
    with pytest.raises(ValueError, match="1 .npz of weights, which are neither"):
        load_weights(U2Fusion(), tmp_path)


def test_folder_that_could_mean_several_files_is_refused(network, tmp_path):
    save_halves(tmp_path, as_variables(network))
    np.savez(tmp_path / "another_encoder.npz", x=np.zeros(1))
    with pytest.raises(ValueError, match="3 .npz of weights, which are neither one file"):
        load_weights(U2Fusion(), tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".model", ".npz"])
def test_own_names_in_one_file(network, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = network.state_dict()
    if suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save(state, path)
    loaded = build_model("u2fusion", weights=path)
    assert_same_tensors(loaded.method, state)


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("unknown", r"U2Fusion does not know 1 of its tensors: encoder\.conv9\.weight"),
        ("missing", r"lacks 1 of the 20 tensors of U2Fusion: encoder\.conv1_1\.bias"),
        ("shape", r"encoder\.conv1_1\.bias has shape \(3,\), U2Fusion wants \(44,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_loaded(
    network, tmp_path, suffix, change, problem
):
    state = dict(network.state_dict())
    if change == "unknown":
        state["encoder.conv9.weight"] = torch.zeros(2)
    elif change == "missing":
        del state["encoder.conv1_1.bias"]
    else:
        state["encoder.conv1_1.bias"] = torch.zeros(3)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save(state, path)
    loaded = U2Fusion()
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    with pytest.raises(ValueError, match=problem):
        load_weights(loaded, path)
    assert_same_tensors(loaded, before)


class Trap:
    """An object whose unpickling would run code."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"encoder.conv1_1.weight": Trap()}, "trap.pth")
    np.savez("trap.npz", **{"encoder.conv1_1.weight": np.array([Trap()], dtype=object)})
    for name in ("trap.pth", "trap.npz"):
        with pytest.raises(ValueError, match="plain"):
            load_weights(U2Fusion(), name)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
@pytest.mark.parametrize("kept", [0, 100, 200_000])
def test_file_cut_short_is_refused(network, tmp_path, suffix, kept):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in network.state_dict().items()})
    else:
        torch.save(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="cut short"):
        load_weights(U2Fusion(), path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"a": torch.zeros(1)}}])
def test_file_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no state dict|not a plain state dict"):
        load_weights(U2Fusion(), tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["none.pth", "none.npz", "none/model.ckpt"])
def test_missing_file_is_an_os_error(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        load_weights(U2Fusion(), tmp_path / name)


@pytest.mark.parametrize(
    ("method", "file"), [(MATR, "matr_weights.npz"), (DILRAN, "dilran_weights.npz")]
)
def test_golden_arrays_of_the_other_methods_load(method, file):
    network = method()
    load_weights(network, golden(f"baselines/{file}"))
    arrays = np.load(golden(f"baselines/{file}"))
    for name, parameter in network.named_parameters():
        np.testing.assert_array_equal(parameter.detach(), arrays[name])


def test_two_dimensional_methods_are_built_slicewise():
    assert slicewise_names() == ["swinfuse", "u2fusion", "dilran", "matr"]
    mri, pet = torch.rand(2, 1, 1, 9, 11, 3, generator=torch.Generator().manual_seed(0))
    mri[..., 1], pet[..., 1] = 0, 0
    for name in slicewise_names():
        model = build_model(name, plane="axial", batch=2).eval()
        with torch.inference_mode():
            fused = model(mri, pet)
        assert fused.shape == mri.shape
        assert fused.min() >= 0 and fused.max() <= 1
        assert not fused[..., 1].any()


def test_a_member_that_is_no_array_of_numbers_is_named(tmp_path):
    arrays = {"encoder.conv1_1.weight": np.array(["text"])}
    np.savez(tmp_path / "texts.npz", **arrays)
    np.savez(tmp_path / "bytes.npz")
    with zipfile.ZipFile(tmp_path / "bytes.npz", "a") as archive:
        archive.writestr("readme.txt", "no array")
    for name, member in (("texts", "encoder.conv1_1.weight"), ("bytes", "readme.txt")):
        with pytest.raises(WeightsError, match=f"its member {member} is no array"):
            load_weights(U2Fusion(), tmp_path / f"{name}.npz")
