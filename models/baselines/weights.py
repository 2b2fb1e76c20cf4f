"""Published weights of the 2-D methods, from the files in which they are published.

Read are state dicts (`.pth`, `.pt`, `.model`), arrays by tensor name (`.npz`), and the TensorFlow-1
checkpoint of U2Fusion, the last without TensorFlow. Each tensor of a file is loaded, or named as
skipped because the method never uses it; a tensor too many, too few or of another shape is an
error.
"""

import warnings
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch import nn

_DATA = ".data-00000-of-00001"
_HALVES = ("encoder.npz", "decoder.npz")
# Counts training steps; a file of float arrays has none, and no result depends on it.
_COUNTER = "num_batches_tracked"


class WeightsError(ValueError):
    """A file that does not hold the weights of the network it is to be loaded into."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path, self.problem = path, problem


def load_weights(network: nn.Module, path: str | Path) -> list[str]:
    """Load published weights into a 2-D method.

    Args:
        network: a method; its `UNUSED` are patterns of the published names that it never reads.
        path: a state dict saved by torch; an `.npz`; a TensorFlow checkpoint as `model.ckpt`, its
            data file, its `.index` or its folder. Where encoder and decoder are two files,
            `<name>encoder.npz` and `<name>decoder.npz`, either of them or their folder.

    Returns:
        The names in the file that were skipped, since the method never uses them.

    Raises:
        WeightsError: for a file that holds something else, or lacks tensors, or has tensors that
            the method does not know or that have another shape; the message names them. The network
            is unchanged then.
        OSError: for a file that is not there or cannot be read.
    """
    path = Path(path)
    tensors = _read(network, path)
    wanted = network.state_dict()
    extra = [name for name in tensors if name not in wanted]
    skipped = [
        name for name in extra if any(fnmatchcase(name, pattern) for pattern in network.UNUSED)
    ]
    unknown = [name for name in extra if name not in skipped]
    missing = [name for name in wanted if name not in tensors and not name.endswith(_COUNTER)]
    method = type(network).__name__
    if unknown:
        raise WeightsError(
            path, f"{method} does not know {len(unknown)} of its tensors: {_listed(unknown)}"
        )
    if missing:
        raise WeightsError(
            path,
            f"lacks {len(missing)} of the {len(wanted)} tensors of {method}: {_listed(missing)}",
        )
    chosen = {name: tensor for name, tensor in tensors.items() if name in wanted}
    for name, tensor in chosen.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, {method} wants {tuple(wanted[name].shape)}"
            raise WeightsError(path, f"{name} has shape {shapes}")
    network.load_state_dict(chosen, strict=False)  # only counters may be missing
    return skipped


def weight_files(path: str | Path) -> list[Path]:
    """The files that `load_weights` reads for a path.

    Raises:
        WeightsError: for a folder of several weights, or of none.
    """
    path = Path(path)
    data = _tensorflow_data(path)
    if data is not None:
        return [data]
    return _array_files(path) if path.suffix == ".npz" or path.is_dir() else [path]


def _read(network: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    files = weight_files(path)
    if files[0].name.endswith(_DATA):
        return _read_tensorflow(network, files[0])
    if files[0].suffix == ".npz":
        arrays = {name: array for file in files for name, array in _read_arrays(file).items()}
        return {_own_name(name): _own_layout(name, array) for name, array in arrays.items()}
    return _read_state_dict(path)


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle's protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file that only looks like a pickle raises nearly any kind
        raise WeightsError(path, "cut short, or no state dict of plain tensors") from error
    if not isinstance(content, dict) or not content:
        raise WeightsError(path, f"holds a {type(content).__name__}, no state dict")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(
                path, f"{name} is a {type(value).__name__}, no tensor: not a plain state dict"
            )
    return content


def _array_files(path: Path) -> list[Path]:
    """The `.npz` files that a path means: itself and its other half, if any, or a folder's."""
    if path.is_dir():
        halves = [file for half in _HALVES for file in sorted(path.glob(f"*{half}"))]
        files = halves or sorted(path.glob("*.npz"))
        if len(files) != (2 if halves else 1):
            found = ", which are neither one file nor one encoder with one decoder" if files else ""
            problem = f"no TensorFlow checkpoint, and {len(files)} .npz of weights{found}"
            raise WeightsError(path, f"{problem}; name a file")
        return files
    for half, other in (_HALVES, _HALVES[::-1]):
        partner = path.with_name(path.name.removesuffix(half) + other)
        if path.name.endswith(half) and partner.exists():
            return [path, partner]
    return [path]


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content}
    except OSError:
        raise
    except Exception as error:  # so does one that only looks like an archive
        raise WeightsError(path, "cut short, or no .npz of plain arrays") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise WeightsError(path, f"its member {name} is no array of numbers")
    return arrays


def _tensorflow_data(path: Path) -> Path | None:
    """The data file of a TensorFlow checkpoint; None where a path means something else."""
    if path.is_dir():
        found = sorted(path.glob(f"*{_DATA}"))
        if len(found) > 1:
            raise WeightsError(
                path, f"has {len(found)} TensorFlow checkpoints, name one: {_listed(found)}"
            )
        return found[0] if found else None
    if path.name.endswith(_DATA):
        return path
    is_part = path.suffix in (".index", ".meta")
    data = path.with_name((path.stem if is_part else path.name) + _DATA)
    return data if is_part or data.exists() else None


def _read_tensorflow(network: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Cut the data file of a TensorFlow-1 checkpoint into the tensors of a network.

    The file is the variables as little-endian float32 without gaps, in alphabetical order of their
    full names, each in C order; nothing in it says where one ends.
    """
    if not hasattr(network, "tensorflow_scopes"):
        raise WeightsError(path, f"{type(network).__name__} has no TensorFlow checkpoint")
    shapes = {
        _tensorflow_name(name, network.tensorflow_scopes): _tensorflow_shape(tensor)
        for name, tensor in network.state_dict().items()
    }
    wanted = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    size = path.stat().st_size
    if size != wanted:
        raise WeightsError(
            path,
            f"has {size} bytes, the {len(shapes)} float32 variables of "
            f"{type(network).__name__} take {wanted}: cut short, or another network's checkpoint",
        )
    values = np.fromfile(path, dtype="<f4")
    tensors, start = {}, 0
    for name in sorted(shapes):
        stop = start + int(np.prod(shapes[name]))
        tensors[_own_name(name)] = _own_layout(name, values[start:stop].reshape(shapes[name]))
        start = stop
    return tensors


def _tensorflow_name(name: str, scopes: dict[str, str]) -> str:
    part, *layers, kind = name.split(".")
    return "/".join((scopes[part], *layers, {"weight": "kernel", "bias": "bias"}[kind]))


def _tensorflow_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """(out, in, h, w) -> (h, w, in, out); biases stay."""
    shape = tuple(tensor.shape)
    return shape[2:] + shape[1::-1] if len(shape) == 4 else shape


def _own_name(name: str) -> str:
    """`Generator_1/decoder/conv2_4/kernel` -> `decoder.conv2_4.weight`; no slash, no change."""
    if "/" not in name:
        return name
    _, *layers, kind = name.split("/")
    return ".".join((*layers, {"kernel": "weight"}.get(kind, kind)))


def _own_layout(name: str, array: np.ndarray) -> torch.Tensor:
    """The kernels (h, w, in, out) of TensorFlow variables become (out, in, h, w)."""
    if "/" in name and array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array))


def _listed(names: list) -> str:
    return ", ".join(map(str, names[:5])) + (
        f" and {len(names) - 5} more" if len(names) > 5 else ""
    )
