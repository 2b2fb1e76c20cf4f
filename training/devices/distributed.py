"""Devices, and one process for each when there are several.

Processes come from torchrun, on one machine or many, or are started here, for `--gpus 0,1`. Either
way they meet at a store, form a `Group` and do the work that the first one hands out. Each one says
at the store that it is alive: where one has died or cannot be reached, the others end within a
minute and name it.
"""

import contextlib
import itertools
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import InputError, ask_before_saying, report
from utils.ranks import POLL_S, Place, agree_on_round, not_there

HERE = "127.0.0.1"
BEAT_S = 5.0  # between signs of life
SILENT_S = 30.0  # without one a process counts as dead
JOIN_S = 600.0  # for all to appear at the store
ENDING_S = 5  # for processes to end by themselves where one has failed
# How long one exchange may wait: shares of cases take unequal times. The dead are found otherwise.
LONGEST_WAIT = timedelta(days=1)
WORK, NONE, ENDED = "work", "none", "ended"


@dataclass(frozen=True)
class Process:
    """This process among those that work together.

    The first one (`is_main`) writes files and progress bars.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module, some_unused: bool = False) -> nn.Module:
        """The module on this process's device, averaging gradients with the other processes.

        Args:
            some_unused: whether there are parameters that get no gradient, which the others must
                not wait for.
        """
        module = module.to(self.device)
        if self.world_size == 1:
            return module
        wrapped = DistributedDataParallel(module, find_unused_parameters=some_unused)
        if self.device.type == "cpu":
            wrapped.register_comm_hook(self.world_size, _average_each_tensor)
        return wrapped

    def share_of(self, items: Sequence) -> Sequence:
        """Every n-th of the items, which no other process has."""
        return items[self.rank :: self.world_size]

    def gather(self, items: list) -> list:
        """The items of all processes, in the order of their ranks."""
        if self.world_size == 1:
            return items
        parts = [None] * self.world_size
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def mean(self, values: list[float]) -> list[float]:
        """The mean over all processes of each value; NaN and infinity stay."""
        if self.world_size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return (total / self.world_size).tolist()

    def raise_together(self, error: InputError | None) -> None:
        """Raise an error that any process has in all of them: none must wait for one that is gone.

        Raises:
            InputError: the first process's that has one.
        """
        if self.world_size > 1:
            flag = torch.tensor(float(error is not None), device=self.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            if flag.item():
                error = next(one for one in self.gather([error]) if one)
        if error:
            raise error

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers: BatchNorm's statistics are each one's own."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def _average_each_tensor(
    world_size: int, bucket: dist.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    """Average the gradients of a bucket one by one, in every step alike.

    Where a number stands in a bucket decides in which order gloo sums it, and buckets are filled
    anew after the first step: a resumed run would differ in its last bits from an uninterrupted
    one, with three processes and more.
    """
    for gradient in bucket.gradients():  # views of the buffer
        dist.all_reduce(gradient)
    done = torch.futures.Future()
    done.set_result(bucket.buffer().div_(world_size))
    return done


def choose_devices(gpus: tuple[int, ...]) -> list[torch.device]:
    """The CUDA devices with these numbers; the CPU where there is no CUDA device at all.

    Raises:
        InputError: a number that is not there while other devices are.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return [torch.device("cpu")]
    absent = [gpu for gpu in gpus if gpu >= count]
    if absent:
        there = ", ".join(map(str, range(count)))
        raise InputError("--gpus", f"no device {absent[0]}", f"choose from {there}")
    return [torch.device("cuda", gpu) for gpu in gpus]


def device_of(place: Place) -> torch.device:
    """The device of a process that a launcher has started: CUDA's with its local rank, or the CPU.

    Raises:
        InputError: more processes than devices.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if place.local_rank >= count:
        problem = f"process {place.local_rank} of this machine has no device, there are {count}"
        raise InputError("--nproc-per-node", problem, f"give {count} or fewer")
    return torch.device("cuda", place.local_rank)


class Group:
    """The processes that work together, seen from one of them; a context.

    The first process prepares, then hands out one function that all call (`lead`). The others wait
    for it (`follow`).

    Args:
        place: this process's.
        store: where all of them meet, see `torch.distributed.Store`.
        device: this process's.

    Attributes:
        restarts: how often a launcher has started them again.
    """

    def __init__(self, place: Place, store: dist.Store, device: torch.device) -> None:
        self.place, self.store = place, store
        self.process = Process(place.rank, place.world_size, device)
        self.restarts = place.restarts
        self._voice = store.clone()  # one connection serves one thread
        self._voice.set_timeout(timedelta(seconds=SILENT_S))
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._watch, daemon=True)

    @classmethod
    def of_launcher(cls, place: Place) -> "Group":
        """The group of a process that a launcher has started.

        Raises:
            InputError: the others cannot be found, or there is no device for this process.
        """
        device = device_of(place)
        try:
            store, _, _ = next(dist.rendezvous("env://"))
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            problem = f"no process answers there ({type(error).__name__})"
            raise InputError(address, problem, "start by torchrun") from error
        own = dist.PrefixStore(agree_on_round(store, place, JOIN_S), store)
        return cls(place, own, device)

    def __enter__(self) -> "Group":
        _make_current(self.process.device)
        ask_before_saying(self._is_first_to_say)
        own = f"{self.restarts} {platform.node()}"
        self.store.set(f"joined/{self.place.rank}", own)
        self.store.set(f"beat/{self.place.rank}", "0")
        self._wait_for_all("joined", JOIN_S)
        joined = self.store.multi_get(self._keys("joined"))
        counts, self._hosts = zip(*(text.decode().split(" ", 1) for text in joined), strict=True)
        self.restarts = max(map(int, counts))
        self._heart.start()
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        self._ended.set()
        with contextlib.suppress(RuntimeError, InputError):  # the others may be gone
            if self.place.rank == 0 and not self.store.check([WORK]):
                self.store.set(WORK, NONE)
            if kind is not None:
                return
            self._heart.join()
            self.store.set(f"beat/{self.place.rank}", ENDED)
            self.store.set(f"left/{self.place.rank}", "")
            if self.place.rank == 0:  # it may be the store's own process
                self._wait_for_all("left", SILENT_S)

    def lead(self, function: Callable, arguments: tuple) -> Any:
        """Have all processes call `function(process, *arguments)`; returns this one's result."""
        self.store.set(WORK, "there")
        with self._exchange():
            self._hand_out([function, arguments])
            return function(self.process, *arguments)

    def follow(self) -> None:
        """Do what the first process hands out, if it does; its output is the one to be seen."""
        while not self.store.check([WORK]):
            time.sleep(POLL_S)
        if self.store.get(WORK) == NONE.encode():
            return
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            with self._exchange():
                function, arguments = self._hand_out([None, None])
                function(self.process, *arguments)

    def call(self, function: Callable, arguments: tuple) -> None:
        """Call a function that all processes have already."""
        self.store.set(WORK, "there")
        with self._exchange():
            function(self.process, *arguments)

    def _hand_out(self, work: list) -> list:
        """The first process's objects, in all."""
        if self.process.world_size > 1:
            dist.broadcast_object_list(work, src=0)
        return work

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        """While the processes exchange tensors and objects."""
        if self.process.world_size == 1:
            yield
            return
        try:
            dist.init_process_group(
                "nccl" if self.process.device.type == "cuda" else "gloo",
                store=dist.PrefixStore("exchange", self.store),
                rank=self.process.rank,
                world_size=self.process.world_size,
                timeout=LONGEST_WAIT,
            )
            yield
        except (RuntimeError, OSError) as error:
            if _is_broken_exchange(error):
                time.sleep(SILENT_S + 2 * BEAT_S)  # `_watch` finds out who is gone, and ends this
            raise
        # After an error there is no tidying up: gloo sometimes aborts (status -6) when its peers
        # are about to go, too.
        dist.destroy_process_group()

    def _keys(self, kind: str) -> list[str]:
        return [f"{kind}/{rank}" for rank in range(self.place.world_size)]

    def _wait_for_all(self, kind: str, limit_s: float) -> None:
        """Wait until every process has set its key, which unlike a blocking call Ctrl-C ends."""
        last = time.monotonic() + limit_s
        while not self.store.check(self._keys(kind)):
            if time.monotonic() > last:
                there = [rank for rank, key in enumerate(self._keys(kind)) if not self._has(key)]
                raise not_there(there[0], limit_s)
            time.sleep(POLL_S)

    def _has(self, key: str) -> bool:
        return self.store.check([key])

    def _is_first_to_say(self, line: str) -> bool:
        """Whether no other process has said the same."""
        try:
            return self._voice.add(f"said/{line}", 1) == 1
        except RuntimeError:  # the store is gone
            return True

    def _watch(self) -> None:
        """Show that this process is alive, and end it where another one is not."""
        store = self.store.clone()
        store.set_timeout(timedelta(seconds=SILENT_S))
        last, heard = [None] * self.place.world_size, [time.monotonic()] * self.place.world_size
        for number in itertools.count(1):
            if self._ended.wait(BEAT_S):
                return
            try:
                store.set(f"beat/{self.place.rank}", str(number))
                beats = store.multi_get(self._keys("beat"))
            except RuntimeError:
                self._end(0, "cannot be reached at the processes' meeting point")
            now = time.monotonic()
            for rank, beat in enumerate(beats):
                if beat != last[rank]:
                    last[rank], heard[rank] = beat, now
                elif beat != ENDED.encode() and now - heard[rank] > SILENT_S:
                    self._end(rank, f"has died or cannot be reached for {SILENT_S:g} s")

    def _end(self, rank: int, problem: str) -> None:
        """Say who is gone and end: nothing else ends a process that waits in compiled code."""
        if not self._ended.is_set():
            who = f"rank {rank} on {self._hosts[rank]}"
            report(InputError(who, problem, "see what it said last, then go on by --resume"))
            sys.stdout.flush()
            os._exit(1)


def _is_broken_exchange(error: Exception) -> bool:
    """Whether an exchange failed because of another process; gloo has no exception of its own."""
    return isinstance(error, dist.DistError | OSError) or "gloo" in str(error).lower()


@contextlib.contextmanager
def leading(place: Place | None) -> Iterator[Group | None]:
    """The group that this first process leads; None where no launcher has started it."""
    if place is None:
        yield None
        return
    with Group.of_launcher(place) as group:
        yield group


def follow(place: Place) -> None:
    """The whole life of a process that is not the first one."""
    with Group.of_launcher(place) as group:
        group.follow()


def launch(
    function: Callable, devices: list[torch.device], *arguments, group: Group | None = None
) -> Any:
    """Run `function(process, *arguments)`, in a process for each device if there are several.

    Args:
        group: of processes that are there already; they have devices of their own.

    Returns:
        what it returns in the first process; None where processes were started.

    Raises:
        InputError: a process was killed.
        SystemExit: with the status of the first process that ended in an error it has reported.
    """
    if group:
        return group.lead(function, arguments)
    if len(devices) == 1:
        _make_current(devices[0])
        return function(Process(0, 1, devices[0]), *arguments)
    store = dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    options = function, devices, store.port, arguments
    workers = multiprocessing.spawn(_worker, options, nprocs=len(devices), join=False)
    try:
        while not workers.join(grace_period=ENDING_S):
            pass
    except multiprocessing.ProcessExitedException as error:
        if error.exit_code >= 0:
            raise SystemExit(error.exit_code) from None
        who = f"process {error.error_index + 1} of {len(devices)}"
        problem = f"was killed ({error.signal_name}), perhaps out of memory"
        raise InputError(who, problem, "look at the machine, then --resume") from None
    finally:  # after Ctrl-C or SIGTERM none of them goes on alone
        for process in workers.processes:
            process.terminate()
    return None


def _make_current(device: torch.device) -> None:
    """Have "cuda" without a number, and the current stream, mean this process's device."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _worker(
    rank: int, function: Callable, devices: list[torch.device], port: int, arguments: tuple
) -> None:
    """A process that `launch` has started."""
    store = dist.TCPStore(HERE, port, is_master=False)
    with Group(Place(rank, rank, len(devices)), store, devices[rank]) as group:
        try:
            group.call(function, arguments)
        except InputError as error:
            report(error)
            # Not by way of the interpreter's end: threads that are then stopped in compiled code
            # (gloo's, the store's) abort the process now and then, with status -6.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(2)
