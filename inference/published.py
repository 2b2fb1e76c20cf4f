"""Published weights of the 2-D methods, named as METHOD[:OPTION=VALUE,...]=FILE.

`matr=model_10.pth` is MATR with its authors' weights, `dilran:statistics=running=last.pt` DILRAN in
its repaired form. Such a file holds tensors only, so that the user says which network they belong
to.
"""

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path

from inference.trained import TrainedModel, is_own
from models import build_model, slicewise_names
from models.baselines.weights import WeightsError, load_weights, weight_files
from utils.archives import check_archive
from utils.errors import InputError

FORM = "METHOD=FILE or METHOD:OPTION=VALUE,...=FILE"
PAGE = "docs/baselines.md"
_PATTERN = re.compile(
    r"""
    (?P<method> [^:=]*)
    (?: : (?P<options> [^:=,]+=[^=,]+ (?: ,[^=,]+=[^=,]+ )* ) )?
    = (?P<path> .+)  # which may hold : and = itself
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Published:
    """A method with a file of its published weights.

    Attributes:
        method: a name in `models.slicewise_names()`.
        path: see `models.baselines.weights.load_weights`.
        options: of the network, and `stretch` of `Slicewise`; those not given are as released.
    """

    method: str
    path: Path
    options: dict[str, str | int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A plain name, such as "dilran-running"."""
        return "-".join([self.method, *map(str, self.options.values())])

    @property
    def reading(self) -> str:
        """What decides, besides file and plane, what the network does."""
        return " ".join([self.method, *(f"{name}={value}" for name, value in self.options.items())])


def parse_published(text: str, flag: str) -> Published:
    """Take `METHOD[:OPTION=VALUE,...]=FILE` apart.

    Args:
        flag: where the text was given.

    Raises:
        InputError: another form, or a method or option that there is not.
    """
    found = _PATTERN.fullmatch(text)
    if not found:
        raise InputError(flag, f"{text!r} names no method and file", f"give {FORM}")
    method, path = found["method"], Path(found["path"])
    if method not in slicewise_names():
        problem = f"no weights are published for {method!r}"
        remedy = f"give {FORM}, METHOD one of {', '.join(slicewise_names())}"
        raise InputError(flag, problem, remedy)
    if not found["options"]:
        return Published(method, path)
    known = _option_names(method)
    options = {}
    for option in found["options"].split(","):
        name, _, value = option.partition("=")
        if name not in known:
            remedy = f"known are {', '.join(known)}, see {PAGE}"
            raise InputError(flag, f"{method} has no option {name!r}", remedy)
        options[name] = int(value) if value.isdecimal() else value
    return Published(method, path, options)


def _option_names(method: str) -> list[str]:
    network = type(build_model(method).method)
    return [*inspect.signature(network).parameters, "stretch"]


def load_published(
    published: Published, flag: str, plane: str, recipe: str, size: int
) -> TrainedModel:
    """The network with its published weights, to fuse with.

    Args:
        flag: where it was named.
        plane: of the slices.
        recipe, size: of the preprocessing; the weights fix neither.

    Raises:
        InputError: an unknown value of an option; a file that is missing, damaged or of another
            network.
    """
    method, path = published.method, published.path
    if is_own(path):
        problem = "is a checkpoint of this project, which knows its model and plane"
        remedy = "name it by --checkpoint, in evaluate.py by --methods LABEL=CHECKPOINT"
        raise InputError(path, problem, remedy)
    try:
        model = build_model(method, plane=plane, **published.options)
    except ValueError as error:
        raise InputError(flag, f"{method}: {error}", f"see {PAGE}") from error
    try:
        for file in weight_files(path):
            check_archive(file)
        skipped = load_weights(model.method, path)
    except WeightsError as error:
        remedy = f"give {method}'s published weights, see {PAGE}"
        raise InputError(error.path, error.problem, remedy) from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise InputError(path, problem, "check the path") from error
    description = f"{path}: published weights of {published.reading}, on {plane} slices"
    if skipped:
        description += f"; {len(skipped)} tensors skipped that it never uses"
    return TrainedModel(model.eval(), recipe, size, path, description, method)
