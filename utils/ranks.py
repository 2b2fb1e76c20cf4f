"""Which one this process is of those that a launcher such as torchrun has started together."""

import os
import secrets
import time
from dataclasses import dataclass
from typing import Any

from utils.errors import InputError

# How launchers tell it; torchrun, the operators of Kubernetes and others set all of them.
_NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
POLL_S = 0.2
_RESTARTS, _MOST_RESTARTS = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"


@dataclass(frozen=True)
class Place:
    """A process among others.

    Attributes:
        rank: its number among all.
        local_rank: its number on its machine.
        world_size: how many there are.
        restarts: how often the launcher has started all of them again; counted by machine.
    """

    rank: int
    local_rank: int
    world_size: int
    restarts: int = 0


def place_from_environment() -> Place | None:
    """This process's place, None where no launcher has started it.

    Raises:
        InputError: a launcher that leaves something out.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    missing = [name for name in (*_NUMBERS, *_MEETING) if name not in os.environ]
    if missing:
        problem = f"is set, and {missing[0]} is not"
        raise InputError("RANK", problem, "start by torchrun, or unset RANK and WORLD_SIZE")
    rank, local_rank, world_size = map(_number, _NUMBERS)
    restarts = _number(_RESTARTS) if _RESTARTS in os.environ else 0
    if rank >= world_size:
        raise InputError("RANK", f"{rank} of {world_size}", "start by torchrun")
    return Place(rank, local_rank, world_size, restarts)


def may_restart() -> bool:
    """Whether torchrun starts all processes again when one has failed."""
    return _MOST_RESTARTS in os.environ and _number(_MOST_RESTARTS) > 0


def agree_on_round(store: Any, place: Place, limit_s: float) -> str:
    """A name for the processes that are started together now, the same in all of them.

    torchrun keeps one store for all its restarts, with what the processes before have left in it,
    and has no number for them: a machine that is replaced counts from 0. So every process shows a
    new token, the first one answers with those that it sees, its own the name, and an answer that
    has a process's token is of now.

    Args:
        store: where they meet, with `set`, `get` and `check` (`torch.distributed.Store`).

    Raises:
        InputError: a process does not appear within the limit.
    """
    token = secrets.token_hex(8)
    store.set(f"token/{place.rank}", token)
    until = time.monotonic() + limit_s
    while True:
        tokens = _shown(store, place.world_size) if place.rank == 0 else _answer(store)
        if place.rank == 0:
            store.set("answer", " ".join(tokens))
        missing = 0
        if token in tokens:
            store.set(f"{tokens[0]}/taken/{place.rank}", "")
            missing = _first_missing(store, tokens[0], place)
        if missing is None:
            return tokens[0]
        if time.monotonic() > until:
            raise not_there(missing, limit_s)
        time.sleep(POLL_S)


def _shown(store: Any, world_size: int) -> list[str]:
    """The token that each process shows, perhaps one of a round before."""
    keys = [f"token/{rank}" for rank in range(world_size)]
    return [store.get(key).decode() if store.check([key]) else "-" for key in keys]


def _answer(store: Any) -> list[str]:
    """What the first process has answered, perhaps in a round before."""
    return store.get("answer").decode().split() if store.check(["answer"]) else []


def _first_missing(store: Any, name: str, place: Place) -> int | None:
    """Which process has not taken the answer, which the first one waits for."""
    others = range(place.world_size) if place.rank == 0 else ()
    return next((rank for rank in others if not store.check([f"{name}/taken/{rank}"])), None)


def not_there(rank: int, limit_s: float) -> InputError:
    """The error of a process that the others wait for in vain."""
    problem = f"has not appeared within {limit_s:g} s"
    return InputError(f"rank {rank}", problem, "see what it said on its machine")


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise InputError(name, f"{text!r} is no whole number", "start by torchrun")
    return int(text)
