"""Devices, and one process for each when there are several (data-parallel training)."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import InputError, report


@dataclass(frozen=True)
class Process:
    """This process among those that train together.

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
        return DistributedDataParallel(module, find_unused_parameters=some_unused)

    def gather(self, items: list) -> list:
        """The items of all processes, in the order of their ranks."""
        if self.world_size == 1:
            return items
        parts = [None] * self.world_size
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all processes, value by value."""
        if self.world_size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.world_size

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


def launch(function: Callable, devices: list[torch.device], *arguments) -> None:
    """Run `function(process, *arguments)`, in a process for each device if there are several.

    Raises:
        SystemExit: with the status of the first process that ended in an error it has reported.
        InputError: a process was killed.
    """
    if len(devices) == 1:
        _make_current(devices[0])
        function(Process(0, 1, devices[0]), *arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting_point = (Path(folder) / "store").as_uri()
        options = function, devices, meeting_point, arguments
        processes = multiprocessing.spawn(_worker, options, nprocs=len(devices), join=False)
        try:
            while not processes.join():
                pass
        except multiprocessing.ProcessExitedException as error:
            if not error.signal_name:
                raise SystemExit(error.exit_code) from None
            source = f"process {error.error_index + 1} of {len(devices)}"
            problem = f"was killed ({error.signal_name}), perhaps out of memory"
            raise InputError(source, problem, "look at the machine, then --resume") from None
        finally:  # after Ctrl-C or SIGTERM none of them goes on alone
            for process in processes.processes:
                process.terminate()


def _make_current(device: torch.device) -> None:
    """Have "cuda" without a number, and the current stream, mean this process's device."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _worker(
    rank: int, function: Callable, devices: list[torch.device], store: str, arguments: tuple
) -> None:
    device = devices[rank]
    _make_current(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=len(devices))
    try:
        function(Process(rank, len(devices), device), *arguments)
    except InputError as error:
        if rank == 0:
            report(error)
        # No tidying up: gloo sometimes aborts (status -6) when its peers are about to go, too.
        raise SystemExit(2) from None
    dist.destroy_process_group()
