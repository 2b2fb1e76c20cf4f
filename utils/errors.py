"""What goes wrong outside the program, and how it is said: one line each."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Kind = Literal["input", "package", "output", "final"]

_listening: list[list[str]] = []
_may_say: Callable[[str], bool] | None = None


class InputError(Exception):
    """A mistake in what came from outside: a file, a header, a list, a flag or a checkpoint.

    Args:
        source: the file or flag at fault, as the user wrote it.
        problem: what is wrong with it.
        remedy: what to do about it.
        kind: "input" when what was given is at fault, "package" when an optional package is,
            "output" when a result cannot be written. "final" says that the same input will be
            refused again, whenever and wherever it is tried.
    """

    def __init__(self, source: object, problem: str, remedy: str, kind: Kind = "input") -> None:
        super().__init__(" ".join(f"{source}: {problem}; {remedy}".split()))
        self.source, self.problem, self.remedy, self.kind = str(source), problem, remedy, kind

    def __reduce__(self) -> tuple:
        return type(self), (self.source, self.problem, self.remedy, self.kind)


def in_one_line(error: Exception, case: object) -> InputError:
    """An error of one case of a batch as one line, so that the others can go on.

    Args:
        error: an `InputError` is returned as it is; any other one is named with its place in the
            code.
        case: whose error it is.
    """
    if isinstance(error, InputError):
        return error
    said = next(iter(str(error).splitlines()), "")
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in where)
    problem = f"{type(error).__name__} {said}".strip() + place
    return InputError(case, problem, "run it alone to see the whole error")


def notice(text: str) -> None:
    """Say one line that the user should know and that is not an error."""
    for heard in _listening:
        heard.append(text)
    _say(f"notice: {text}")


@contextmanager
def hearing() -> Iterator[list[str]]:
    """The notices that are said meanwhile, in any thread, beside being printed."""
    heard: list[str] = []
    _listening.append(heard)
    try:
        yield heard
    finally:
        # by identity: two lists that have heard the same are equal
        _listening[:] = [other for other in _listening if other is not heard]


def report(error: InputError) -> None:
    """Print the one line of an error."""
    _say(f"error: {error}")


def _say(line: str) -> None:
    if _may_say is None or _may_say(line):
        print(line, file=sys.stderr, flush=True)


def ask_before_saying(may_say: Callable[[str], bool]) -> None:
    """Of several processes that have the same to say, let one say it.

    Args:
        may_say: whether a line is this process's to print.
    """
    global _may_say
    _may_say = may_say
