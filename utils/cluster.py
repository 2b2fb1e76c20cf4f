"""Tasks on the machines of a Dask cluster, each in a process of its own that can be killed.

A worker of Dask cannot stop a thread of its own, and its processes are daemons, which must not
have children. So all that a worker does is to start this file as a program (`python -m
utils.cluster`): the program has `utils.processes` call the function, hands the outcome back, and
goes when its worker goes. The workers import nothing of the project, and code, environment and
files are those of whoever asks: all machines must see them under the same paths.
"""

import asyncio
import contextlib
import json
import os
import pickle
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from utils.errors import InputError, notice
from utils.optional import need
from utils.processes import Outcome, Task, end_with_parent, run_tasks
from utils.text import read_text

FLAG = "--scheduler"
CONNECT_S = 10
_ROOT = Path(__file__).resolve().parents[1]
_SHARED = "all machines must see code, environment and data under the same paths"


@dataclass(frozen=True)
class _Order:
    """What a worker's program reads from its stdin.

    Attributes:
        call: pickled function and argument; only the process that can be killed unpacks them.
        name, log: of the task.
        folder: that relative paths start from.
        limit_s: wall-clock seconds.
    """

    call: bytes
    name: str
    log: Path
    folder: str
    limit_s: float


# Whoever asks ------------------------------------------------------------------------------------


def run_on_cluster(
    function: Callable, tasks: Sequence[Task], address: str, limit_s: float
) -> Iterator[Outcome]:
    """As `utils.processes.run_tasks`, as many at a time as the cluster's workers have threads.

    The time of a task runs from its start at a worker. When a worker dies, Dask gives its task to
    another one. When the iteration is left early, no further task is begun; those at work end by
    themselves or at their limit.

    Args:
        address: of the scheduler, `tcp://host:8786`, or its scheduler file (.json).

    Raises:
        InputError: Dask is not installed, or nobody answers at the address.
    """
    distributed = need("distributed")
    with _connected(distributed, address) as client:
        if not client.scheduler_info()["workers"]:
            notice(f"{FLAG}: {address} has no worker yet; waiting for one")
        futures = {_submit(client, function, task, limit_s): task for task in tasks}
        try:
            for future in distributed.as_completed(futures, loop=client.loop):
                yield _outcome(futures[future], future)
        finally:
            with contextlib.suppress(Exception):  # a scheduler that is gone cancels nothing
                client.cancel(list(futures), force=True)


@contextlib.contextmanager
def _connected(distributed: ModuleType, given: str) -> Iterator[Any]:
    """A client of the cluster."""
    address = _address(given)
    try:
        asyncio.run(_knock(distributed, address))  # a client that found nobody ends late and loudly
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TypeError: TLS without its keys
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        problem = f"no Dask scheduler answers at {given} ({said})"
        raise InputError(FLAG, problem, "check the address and that it runs") from error
    with client:
        yield client


def _address(given: str) -> str:
    """The address, also of a scheduler file."""
    if not given.endswith(".json"):
        return given if "://" in given else f"tcp://{given}"
    try:
        return json.loads(read_text(Path(given)))["address"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = "is no scheduler file, which has an address"
        raise InputError(given, problem, f"give {FLAG} tcp://host:8786") from error


async def _knock(distributed: ModuleType, address: str) -> None:
    """Look whether anybody answers at an address."""
    security = distributed.Security().get_connection_args("client")
    answer = await distributed.comm.connect(address, timeout=CONNECT_S, **security)
    await answer.close()


def _submit(client: Any, function: Callable, task: Task, limit_s: float) -> Any:
    """Hand one task to the cluster; returns its future."""
    call = pickle.dumps((function, task.argument))
    order = pickle.dumps(_Order(call, task.name, task.log, os.getcwd(), limit_s))
    return client.submit(
        subprocess.run,
        [sys.executable, "-m", "utils.cluster"],
        input=order,
        cwd=_ROOT,
        capture_output=True,
        key=f"{task.name}-{secrets.token_hex(8)}",
        pure=False,
    )


def _outcome(task: Task, future: Any) -> Outcome:
    """What a finished future has brought."""
    if future.status == "error":
        return Outcome(task, None, _refusal(future.exception()), 0.0)
    if future.status != "finished":
        problem = "the scheduler is gone, or has dropped it; start the command again"
        return Outcome(task, None, problem, 0.0)
    done = future.result()
    if done.returncode == 0:
        return Outcome(task, *pickle.loads(done.stdout))
    said = done.stderr.decode(errors="replace").strip().splitlines() or [""]
    problem = f"its process ended with {done.returncode} ({said[-1]}); {_SHARED}"
    return Outcome(task, None, problem, 0.0)


def _refusal(error: BaseException) -> str:
    """One line on why no worker could even start a task."""
    if isinstance(error, FileNotFoundError):
        return f"a worker does not find {error.filename}; {_SHARED}"
    if type(error).__name__ == "KilledWorker":
        return "one worker after the other died at it; look at their logs and memory"
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__} {first}; look at the workers' logs"


# A worker's program ------------------------------------------------------------------------------


def _call(packed: bytes) -> Any:
    """The call itself, in the process that can be killed."""
    function, argument = pickle.loads(packed)
    return function(argument)


def main() -> None:
    """Read an order, have it done in a process, write the outcome."""
    end_with_parent()
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not come between
    order = pickle.load(sys.stdin.buffer)
    os.chdir(order.folder)
    task = Task(order.name, order.call, order.log)
    (outcome,) = run_tasks(_call, [task], 1, order.limit_s)
    with answer:
        pickle.dump((outcome.result, outcome.problem, outcome.seconds, outcome.is_final), answer)


if __name__ == "__main__":
    main()
