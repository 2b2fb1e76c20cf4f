"""What tests run in processes of their own, and how they watch them."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from utils.errors import InputError


def behave(how: str) -> str:
    """Do as told; the result says which process did it."""
    print(f"python says {how}", flush=True)
    os.system(f"echo another program says {how}")
    if how == "refuse":
        raise InputError("scan.nii", "is\nbad", "mend it")
    if how == "raise":
        raise ZeroDivisionError("first line\nsecond line")
    if how == "refuse for good":
        raise InputError("scan.nii", "is bad", "mend it", kind="final")
    if how == "crash":
        ctypes.string_at(0)
    if how == "hang":
        time.sleep(600)
    return how.upper()


def hang_at(path: Path) -> None:
    """Write this process's number to a file and never come back."""
    part = path.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.rename(path)
    time.sleep(600)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Wait for something that another process does."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit_s, "did not happen in time"
        time.sleep(0.02)


def kill_worker_once(mark: Path) -> str:
    """At the first call, kill the Dask worker that this process's parent belongs to, and hang."""
    if mark.exists():
        return "done again"
    mark.write_text(str(os.getpid()))
    status = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    os.kill(int(status[1]), signal.SIGKILL)
    time.sleep(600)
