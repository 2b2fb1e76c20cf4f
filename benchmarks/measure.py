"""What the benchmarks share: the machine in words, best-of-n timing, peak memory."""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import monai
import torch

from utils.trainer import peak_memory_gib

__all__ = ["machine", "parse_device", "peak_memory_gib", "seconds"]


def machine(device: torch.device) -> str:
    """Device, threads, versions and date, for the head of a table of results."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, MONAI {monai.__version__}, Python {platform.python_version()}"
    return f"{name}{threads}; {versions}; {time.strftime('%Y-%m-%d')}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 3, warm_up: int = 1) -> float:
    """The shortest of `repeats` runs, after `warm_up` runs that do not count."""
    times = []
    for _ in range(warm_up + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[warm_up:])


def parse_device(text: str) -> torch.device:
    """argparse type: a device that is there."""
    device = torch.device(text)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("there is no CUDA device")
    return device
