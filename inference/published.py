"""Published weights of the 2-D methods, as the command line names them:
METHOD[:OPTION=VALUE,...]=FILE.

`matr=model_10.pth` is MATR with its authors' weights, `dilran:statistics=running=last.pt` DILRAN in
its repaired form. Such a file holds tensors only, so that the user says which network they belong
to.
"""

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path

from inference.trained import TrainedModel
from models import build_model, slicewise_names
from models.baselines.weights import load_weights
from training.checkpoint import is_own
from utils.errors import InputError

FORM = "METHOD=FILE or METHOD:OPTION=VALUE,...=FILE"
PAGE = "docs/baselines.md"


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
    found = re.fullmatch(r"([^:=]*)(?::([^:=,]+=[^=,]+(?:,[^=,]+=[^=,]+)*))?=(.+)", text)
    if not found:
        raise InputError(flag, f"{text!r} names no method and file", f"give {FORM}")
    method, listed, path = found.groups()
    if method not in slicewise_names():
        known = ", ".join(slicewise_names())
        raise InputError(
            flag, f"no weights are published for {method!r}", f"give {FORM}, METHOD one of {known}"
        )
    options = {}
    for name, _, value in (part.partition("=") for part in (listed or "").split(",") if part):
        options[name] = int(value) if value.isdecimal() else value
    known = _option_names(method)
    for name in options:
        if name not in known:
            raise InputError(
                flag,
                f"{method} has no option {name!r}",
                f"known are {', '.join(known)}, see {PAGE}",
            )
    return Published(method, Path(path), options)


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
        raise InputError(
            path, problem, "name it by --checkpoint, in evaluate.py by --methods LABEL=CHECKPOINT"
        )
    try:
        model = build_model(method, plane=plane, **published.options)
    except ValueError as error:
        raise InputError(flag, f"{method}: {error}", f"see {PAGE}") from error
    try:
        skipped = load_weights(model.method, path)
    except ValueError as error:
        problem = str(error).removeprefix(f"{path}: ")
        raise InputError(path, problem, f"give {method}'s published weights, see {PAGE}") from error
    except OSError as error:
        raise InputError(
            path, f"cannot be read ({error.strerror or error})", "check the path"
        ) from error
    description = f"{path}: published weights of {published.reading}, on {plane} slices"
    if skipped:
        description += f"; {len(skipped)} tensors skipped that it never uses"
    return TrainedModel(model.eval(), recipe, size, path, description, method)
