"""What the four scripts share at the command line: one-line errors and argument types."""

import argparse
import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from utils.errors import InputError, report
from utils.version import project_version

# PyTorch's CPU threads wait for each other by spinning. On a machine with other work to do that
# makes a training step ten times slower; letting them sleep after a short while costs less than a
# tenth when the machine is idle (measured on 2 cores). Must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# What the system refuses through no fault of the program, and what to do.
_REFUSALS = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOSPC: "free space and run the command again",
    errno.EDQUOT: "free space and run the command again",
    errno.EROFS: "choose another place",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like every other error."""

    def __init__(self, **options) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # A prefix of a flag would be taken for it: `--al 3` must not set a loss weight.
        super().__init__(allow_abbrev=False, exit_on_error=False, **options)
        shown = f"%(prog)s {project_version()}"
        self.add_argument("--version", action="version", version=shown, help="show it and exit")

    def parse_args(self, *arguments, **options) -> argparse.Namespace:
        try:
            return super().parse_args(*arguments, **options)
        except argparse.ArgumentError as error:
            self._refuse(error.argument_name or "command line", error.message)

    def error(self, message: str) -> NoReturn:
        self._refuse("command line", message)

    def _refuse(self, source: str, problem: str) -> NoReturn:
        report(InputError(source, problem, f"see {self.prog} --help"))
        raise SystemExit(2)


class Terminated(BaseException):
    """SIGTERM arrived: what a cluster or a container sends before it kills."""


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and leave with its exit status.

    `InputError` becomes one line on stderr and status 2, and so does a system that refuses (a full
    disk, a name too long). A pipe that nobody reads any more ends it quietly, with status 141.
    Ctrl-C becomes status 130 and SIGTERM 143, after a line. Everything else
    is a programming error and keeps its traceback.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a name may not be of its letters
    try:
        try:
            status = main() or 0
        finally:
            sys.stdout.flush()  # here and not at the interpreter's end, which would complain
    except BrokenPipeError:
        if not _is_stdout_closed():
            raise
        status = 128 + signal.SIGPIPE
    except InputError as error:
        report(error)
        status = 2
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        source = error.filename or "the system"
        report(InputError(source, os.strerror(error.errno), _REFUSALS[error.errno]))
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except Terminated:
        print("terminated", file=sys.stderr)
        status = 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    raise SystemExit(status)


def _is_stdout_closed() -> bool:
    """Whether nobody reads the output any more; then what is left of it goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    raise Terminated


def positive_int(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def non_negative_int(text: str) -> int:
    """argparse type: a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def cube_side(text: str) -> int:
    """argparse type: voxels a side of a cube that memory can hold, 1 to 512."""
    return _up_to(512, positive_int(text))


def process_count(text: str) -> int:
    """argparse type: processes that a machine can run, 0 to 256."""
    return _up_to(256, non_negative_int(text))


def item_count(text: str) -> int:
    """argparse type: items that an epoch can have, 1 to a million."""
    return _up_to(1_000_000, positive_int(text))


def _up_to(most: int, value: int) -> int:
    if value > most:
        raise argparse.ArgumentTypeError(f"{value} is above {most}")
    return value


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def loss_weight(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no weight, give a finite number of at least 0")
    return value


def share(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to 1")
    return value


def decay(text: str) -> float:
    """argparse type: a number from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def device_numbers(text: str) -> tuple[int, ...]:
    """argparse type: CUDA devices such as "0" or "0,1,2,3"."""
    parts = text.split(",")
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(set(numbers)) < len(parts):
        problem = f"{text} is no list of different device numbers such as 0,1"
        raise argparse.ArgumentTypeError(problem)
    return tuple(numbers)


def seed(text: str) -> int:
    """argparse type: a whole number from 0 to 2^32 - 1, which every random generator takes."""
    value = non_negative_int(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is above 2^32 - 1")
    return value
