"""Work in processes of their own, each with a limit of wall-clock time, after which it is killed.

Compiled code can hang where no exception or signal handler of Python helps, and can take the whole
process with it. So every task runs in a fresh interpreter that the parent watches and, if need be,
kills. Linux and macOS.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from utils.errors import InputError

TASKS_PER_PROCESS = 8  # then a fresh one, so that what a library leaks is given back
GRACE_S = 30  # after its limit a process whose parent is gone ends itself
# Any limit is taken, but the system's calls count no further than this.
_LONGEST_WAIT_S, _LONGEST_ALARM_S = 3600.0, 2**31 - 1
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


@dataclass(frozen=True)
class Task:
    """One call of the function.

    Attributes:
        name: for messages.
        argument: what the function gets; must be picklable.
        log: file that gets everything the task prints, also from compiled code.
    """

    name: str
    argument: Any
    log: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its result, or in `problem` one line on why there is none.

    `is_final` says that the task raised an `InputError` of kind "final"; every other problem may be
    gone the next time.
    """

    task: Task
    result: Any
    problem: str | None
    seconds: float
    is_final: bool = False


def run_tasks(
    function: Callable, tasks: Sequence[Task], jobs: int, limit_s: float
) -> Iterator[Outcome]:
    """Call `function(task.argument)` for every task, `jobs` at a time.

    Outcomes come as they are ready. A task that raises, dies or takes longer than `limit_s` seconds
    has a problem instead of a result, and the others go on. When the iteration is left early (an
    error, Ctrl-C) all processes are killed. Processes whose parent was killed end by themselves.

    Args:
        function: defined at the top level of a module; its result must be picklable.
    """
    waiting = list(reversed(tasks))
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                workers.append(_Worker(function, limit_s))
                workers[-1].give(waiting.pop())
            soonest = min(worker.deadline for worker in workers)
            left_s = max(soonest - time.monotonic(), 0)
            wait([worker.pipe for worker in workers], timeout=min(left_s, _LONGEST_WAIT_S))
            for worker in list(workers):
                outcome = worker.outcome()
                if outcome is None:
                    continue
                if waiting and worker.is_fresh:
                    worker.give(waiting.pop())
                else:
                    worker.kill()
                    workers.remove(worker)
                yield outcome
    finally:
        for worker in workers:
            worker.kill()


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def default_jobs(bytes_each: int) -> int:
    """How many processes there are cores and, at `bytes_each`, free memory for; at least 1."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # what this process may use, where the system tells
        cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free_kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        cores = min(cores, free_kib * 1024 // bytes_each)
    return max(int(cores), 1)


class _Worker:
    """A process and the task it is at."""

    def __init__(self, function: Callable, limit_s: float) -> None:
        for variable in _THREADS:  # processes, not threads; and one thread is deterministic
            os.environ[variable] = "1"
        context = multiprocessing.get_context("spawn")
        self.limit_s, self.task, self.given = limit_s, None, 0
        self.pipe, theirs = context.Pipe()
        arguments = (function, theirs, limit_s, os.getpid())
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        # Ctrl-C reaches every process of the terminal; only the parent is to act on it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()

    @property
    def is_fresh(self) -> bool:
        """Whether it can take another task."""
        return self.process.is_alive() and self.given < TASKS_PER_PROCESS

    def give(self, task: Task) -> None:
        """Start a task; its time runs from now."""
        self.task, self.given = task, self.given + 1
        self.started = time.monotonic()
        self.deadline = self.started + self.limit_s
        with contextlib.suppress(BrokenPipeError):  # dead already: `outcome` will find out
            self.pipe.send(task)

    def outcome(self) -> Outcome | None:
        """The outcome of the task, None while there is none; kills what is over its time."""
        result, is_final = None, False
        try:
            if self.pipe.poll():
                result, problem, is_final = self.pipe.recv()
            elif time.monotonic() < self.deadline:
                return None
            else:
                self.kill()
                over = f"stopped after {self.limit_s / 60:.3g} minutes"
                problem = f"{over}; look at its log, or raise --time-limit"
        except (EOFError, OSError):
            self.process.join()
            died = f"its process died ({_ending(self.process.exitcode)})"
            problem = f"{died}; look at its log, or use fewer --jobs"
        return Outcome(self.task, result, problem, time.monotonic() - self.started, is_final)

    def kill(self) -> None:
        """End it at once; what it has finished is in files and in the pipe already."""
        self.process.kill()
        self.process.join()


def _ending(exit_code: int | None) -> str:
    """A process's exit code in words."""
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-exit_code).name
            return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit status {exit_code}"


def _work(function: Callable, pipe: Connection, limit_s: float, parent: int) -> None:
    """The process: tasks in, answers out, until the other end of the pipe closes."""
    end_with_parent()
    if os.getppid() != parent:  # gone before the line above
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        # The kernel acts on this, whatever compiled code is at: for systems without a signal at the
        # parent's death.
        signal.alarm(int(min(limit_s + GRACE_S, _LONGEST_ALARM_S)))
        with _printing_to(task.log):
            answer = _answer(function, task)
        signal.alarm(0)
        try:
            pipe.send(answer)
        except OSError:
            return


def _answer(function: Callable, task: Task) -> tuple[Any, str | None, bool]:
    """(result, None, False), or (None, one line on what went wrong, whether that is final)."""
    try:
        return function(task.argument), None, False
    except InputError as error:
        return None, str(error), error.kind == "final"
    except MemoryError:
        traceback.print_exc()
        return None, "not enough memory; use fewer --jobs, or a machine with more", False
    except Exception as error:
        traceback.print_exc()
        first = next(iter(str(error).splitlines()), "")
        problem = f"{type(error).__name__} {first}".strip()
        return None, f"{problem}; the whole story is in {task.log}", False


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send stdout and stderr, also those of compiled code, to a file; an empty one is removed."""
    target: Path | str = log
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError:  # a full disk must not keep the task from saying so
        target = os.devnull
        descriptor = os.open(target, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            if target is log and log.stat().st_size == 0:
                log.unlink()
