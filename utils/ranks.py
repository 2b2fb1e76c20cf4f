"""Which one this process is of those that a launcher such as torchrun has started together."""

import os
from dataclasses import dataclass

from utils.errors import InputError

# How launchers tell it; torchrun, the operators of Kubernetes and others set all of them.
_NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
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


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise InputError(name, f"{text!r} is no whole number", "start by torchrun")
    return int(text)
