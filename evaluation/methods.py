"""The rows of an evaluation's table: networks, fusions that need none, volumes fused elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from data.bids import stem
from data.subjects import Subject, name_problem
from inference.optimum import Optimum, Refined, parse_objective
from inference.published import load_published, parse_published
from inference.trained import TrainedModel, is_own, load_model
from models import build_model, model_names, slicewise_names
from models.baselines.weights import weight_files
from training import weights
from utils.errors import InputError, notice

# Rows that every table needs: label -> (name for build_model, its options).
TRIVIAL = {
    "copy-mri": ("copy-mri", {}),
    "average": ("average", {}),
    "mix": ("mix", {"weights": (2, 1)}),
    "mix-9-1": ("mix", {"weights": (9, 1)}),
    "maximum": ("maximum", {}),
}
SOURCES = ("MRI", "PET")
OPTIMUM = "optimum"
PUBLISHED_OBJECTIVE = "ssim-gradient-intensity"
LESIONED = "lesions"  # below a folder of fused volumes: those of lesioned pairs
TITLES = {
    "copy-mri": "copy of the MRI",
    "mix": "mix 2:1",
    "mix-9-1": "mix 0.9/0.1",
    "laplacian": "Laplacian pyramid",
}


@dataclass(frozen=True)
class Method:
    """A row of the table: a model, or a folder of volumes that another program fused.

    Attributes:
        label: its name in `scores.csv`.
        model: fuses MRI and PET; None where `folder` has the results.
        folder: of fused NIfTI files, one `<subject>*.nii[.gz]` a subject.
        subjects: names of the whole cohort, which tell the files of "s1" from those of "s1_ses-2".
        files: what the model was loaded from.
        reading: how, where these files can be read in several ways: the variant of a released
            checkpoint, or method, options and plane of published weights.
        is_published: a 2-D method with its authors' weights.
        balance: the share of the MRI that a network was turned to.
        scale: what 0 and 1 are in the files of `folder`; None: these.
    """

    label: str
    model: nn.Module | None = None
    folder: Path | None = None
    subjects: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    reading: str | None = None
    is_published: bool = False
    balance: float | None = None
    scale: tuple[float, float] | None = None

    @property
    def is_trivial(self) -> bool:
        """Whether it is a fusion without any method."""
        return self.label in TRIVIAL

    @property
    def title(self) -> str:
        """Its name in tables and pictures."""
        return TITLES.get(self.label, self.label)

    def stamp(self, subject: Subject) -> list:
        """What one subject's scores depend on: path, size and time of each file, and the reading.

        Raises:
            InputError: a file is missing.
        """
        files = [subject.mri, subject.pet, *self.files]
        files += [self.fused_file(subject.name)] if self.folder else []
        return [*map(_file_stamp, files), self.reading]

    def fused_file(self, subject: str) -> Path:
        """The one volume of a subject in `folder`.

        Raises:
            InputError: none or several.
        """
        return _only_volume(self.folder, subject, self._volumes[subject])

    def lesioned_file(self, name: str) -> Path:
        """What the program made of an exported lesioned pair, in `<folder>/lesions/`.

        Raises:
            InputError: none or several.
        """
        folder = self.folder / LESIONED
        return _only_volume(folder, name, _volumes_by_name(folder, (name,))[name])

    @cached_property
    def _volumes(self) -> dict[str, list[Path]]:
        return _volumes_by_name(self.folder, self.subjects)


def _file_stamp(path: Path) -> list:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(path, "cannot be read", "check the path") from error
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class Loading:
    """How networks are loaded for an evaluation.

    Attributes:
        size, recipe: of the preprocessing that all rows share.
        device: where networks run.
        variant: how to read a released checkpoint, see `load_model`.
        plane: of the slices for published weights.
        balance: share of the MRI for networks that take any; None for their own.
        refine: steps over the fused voxels of networks with an objective of volumes; None for what
            they are to have.
    """

    size: int
    recipe: str
    device: torch.device
    variant: str | None = None
    plane: str = "axial"
    balance: float | None = None
    refine: int | None = None


def trivial_method(label: str) -> Method:
    """One of `TRIVIAL`."""
    name, options = TRIVIAL[label]
    return Method(label, build_model(name, **options).eval())


def model_method(text: str, loading: Loading) -> Method:
    """The method that a value of --methods stands for.

    It is LABEL=CHECKPOINT; dc2fusion with the weights that come with the code; the name of a model
    that needs no file; optimum[:OBJECTIVE[:MRI:PET]]; or, like a value of --weights, a 2-D method
    with a file that is no checkpoint of this project.

    Raises:
        InputError: an unknown name, a label that has its own meaning, or a bad file.
    """
    if text == "dc2fusion":
        text = f"dc2fusion={weights.SHIPPED}"
    label, given, path = text.partition("=")
    if not given:
        return _method_without_file(label, loading)
    if label in _names_without_file():
        raise InputError("--methods", f"{label} takes no file", "choose another label for it")
    own = is_own(Path(path))
    if label.partition(":")[0] in slicewise_names() and (":" in label or not own):
        return weights_method(text, loading, "--methods")
    _check_label(label, "--methods")
    # --variant says how to read weights of the released code; an own checkpoint knows.
    variant = None if own else loading.variant
    trained = load_model(Path(path), variant, loading.size)
    if label in ("dc2fusion", *slicewise_names()) and label != trained.name:
        problem = f"{path} is no {label}, it is {trained.name}"
        raise InputError("--methods", problem, "choose another label for it")
    method = _network(label, trained, loading, (trained.source,), variant)
    readings, balance = [variant] if variant else [], None
    if loading.balance is not None and trained.turns:
        balance = loading.balance
        trained = trained.turned_to(balance)
        readings.append(f"share of the MRI {balance:g}")
    model, steps = method.model, trained.refine if loading.refine is None else loading.refine
    if steps and trained.objective:
        print(f"{label}: refined by {steps} steps of {trained.objective}")
        model = Refined(model, parse_objective(trained.objective, "--refine"), steps)
        readings.append(f"refined by {steps} steps")
    reading = ", ".join(readings) or None
    return replace(method, model=model, reading=reading, balance=balance)


def balanced_methods(text: str, loading: Loading, balances: Sequence[float]) -> list[Method]:
    """`model_method` at each of some balances; once where it does not turn or none is given."""
    if not balances:
        return [model_method(text, loading)]
    methods = []
    for balance in balances:
        method = model_method(text, replace(loading, balance=balance))
        if method.balance is None:
            return [method]
        label = f"{method.label}-{balance:g}" if len(balances) > 1 else method.label
        methods.append(replace(method, label=label))
    return methods


def _names_without_file() -> list[str]:
    need_file = ("dc2fusion", *slicewise_names())
    names = dict.fromkeys([*TRIVIAL, *model_names(), OPTIMUM])
    return [name for name in names if name not in need_file]


def _optimum_method(text: str) -> Method:
    """The voxelwise optimum of an objective, from `optimum[:OBJECTIVE[:MRI:PET]]`."""
    wanted = text.partition(":")[2] or PUBLISHED_OBJECTIVE
    model = Optimum(parse_objective(wanted, "--methods"))
    return Method(text.replace(":", "-"), model, reading=f"{wanted}, {model.steps} steps")


def _method_without_file(label: str, loading: Loading) -> Method:
    if label.partition(":")[0] == OPTIMUM:
        return _optimum_method(label)
    if label in slicewise_names():
        remedy = f"give {label}=RUN, such as result/{label}"
        raise InputError("--methods", f"{label} needs a checkpoint", remedy)
    names = _names_without_file()
    if label not in names:
        remedy = f"give LABEL=CHECKPOINT or {', '.join(names)}"
        raise InputError("--methods", f"unknown method {label!r}", remedy)
    if label in TRIVIAL:
        return trivial_method(label)
    return Method(label, build_model(label).eval().to(loading.device))


def weights_method(text: str, loading: Loading, flag: str) -> Method:
    """The 2-D method with published weights that `METHOD[:OPTION=VALUE,...]=FILE` stands for.

    Args:
        flag: where it was given.

    Raises:
        InputError: as `parse_published` and `load_published`.
    """
    published = parse_published(text, flag)
    trained = load_published(published, flag, loading.plane, loading.recipe, loading.size)
    files = tuple(weight_files(published.path))
    reading = f"{published.reading}, {loading.plane}"
    method = _network(published.label, trained, loading, files, reading)
    return replace(method, is_published=True)


def _network(
    label: str,
    trained: TrainedModel,
    loading: Loading,
    files: tuple[Path, ...],
    reading: str | None,
) -> Method:
    print(f"{label}: {trained.description}")
    if trained.size != loading.size:
        notice(f"{label}: trained on {trained.size}^3 voxels, run on {loading.size}^3 (--size)")
    if trained.recipe != loading.recipe:
        notice(
            f"{label}: trained with the {trained.recipe} recipe, run on the {loading.recipe} one "
            "(--recipe)"
        )
    return Method(label, trained.model.to(loading.device), files=files, reading=reading)


def folder_method(
    text: str, subjects: Sequence[str], scale: tuple[float, float] | None = None
) -> Method:
    """The method whose results `LABEL=FOLDER` has.

    Args:
        subjects: names of the whole cohort.
        scale: what 0 and 1 are in its files; None: these.

    Raises:
        InputError: no such folder, a label that has its own meaning, or no file of any subject.
    """
    label, given, path = text.partition("=")
    if not given:
        raise InputError("--fused", f"{text!r} names no folder", "give LABEL=FOLDER")
    if label in TRIVIAL:
        raise InputError("--fused", f"{label} is a row of its own", "choose another label")
    _check_label(label, "--fused")
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "give the folder with the fused volumes")
    if not any(_volumes_by_name(folder, subjects).values()):
        problem = f"no volume of any of the {len(subjects)} subjects"
        remedy = f"name the files <subject>*.nii.gz, such as {subjects[0]}_fused.nii.gz"
        raise InputError(folder, problem, remedy)
    reading = f"range {scale[0]:g} to {scale[1]:g}" if scale else None
    return Method(label, folder=folder, subjects=tuple(subjects), reading=reading, scale=scale)


def _check_label(label: str, flag: str) -> None:
    problem = name_problem(label) or ("is that of a source" if label in SOURCES else None)
    if problem:
        remedy = "give LABEL=PATH with a plain name"
        raise InputError(flag, f"the label {label!r} {problem}", remedy)


def _only_volume(folder: Path, subject: str, found: Sequence[Path]) -> Path:
    if not found:
        raise InputError(folder, f"no volume of {subject}", f"add {subject}*.nii.gz")
    if len(found) > 1:
        some = ", ".join(path.name for path in found[:3])
        problem = f"{len(found)} volumes of {subject} ({some})"
        raise InputError(folder, problem, "keep one for each subject")
    return found[0]


def _volumes_by_name(folder: Path, names: Sequence[str]) -> dict[str, list[Path]]:
    """{subject: the files that begin with its name and with no longer one}, in one look.

    A name is a whole word of the file's: "s1_fused.nii" is of "s1", "s10.nii" is not.
    """
    found: dict[str, list[Path]] = {name: [] for name in names}
    for path in sorted(path for path in folder.iterdir() if stem(path)):
        for end in range(len(path.name), 0, -1):
            name, follows = path.name[:end], path.name[end : end + 1]
            if name in found and not re.match("[A-Za-z0-9]", follows):
                found[name].append(path)
                break
    return found
