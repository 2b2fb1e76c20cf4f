"""How long scoring takes: `python -m benchmarks.metrics [--size 128] [--threads 2]`.

The volumes are noise, the worst case: every slice is scored and no window equals another. Prints
seconds by the clock and of CPU time (all threads together), so that a busy machine shows; the
ratio of five methods to one is taken in one run.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

import metrics

QUICK = ("psnr", "ssim", "nmi", "mi")


def measure(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The best of `repeats` runs: seconds by the clock, seconds of CPU time."""
    clock = []
    cpu = []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        function()
        clock.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return min(clock), min(cpu)


def volumes(size: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """MRI, PET and five fused volumes."""
    mri, pet = np.random.default_rng(0).random((2, size, size, size), dtype=np.float32)
    fused = [share * mri + (1 - share) * pet for share in (0.5, 0.6, 0.7, 0.8, 0.9)]
    return mri, pet, fused


def report(title: str, names: tuple[str, ...] | None, size: int, repeats: int) -> None:
    """Print the time of one method, of five, and their ratio."""
    mri, pet, fused = volumes(size)

    def score_methods(count: int) -> None:
        scorer = metrics.Scorer(mri, pet, names=names)
        for volume in fused[:count]:
            scorer(volume)

    one, one_cpu = measure(lambda: score_methods(1), repeats)
    five, five_cpu = measure(lambda: score_methods(5), repeats)
    print(f"{title:12} one method   {one:7.2f} s   CPU {one_cpu:7.2f} s")
    print(f"{title:12} five methods {five:7.2f} s   CPU {five_cpu:7.2f} s")
    print(f"{title:12} five / one   {five / one:7.2f}     CPU {five_cpu / one_cpu:7.2f}")


def main() -> None:
    """Print the times of three sets of measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="side of the volumes in voxels (128)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.size}^3 voxels, both sources, {args.threads} threads, torch {torch.__version__}")

    report("quick set", QUICK, args.size, repeats=3)
    report("whole set", None, args.size, repeats=1)
    mri, pet, fused = volumes(128)  # the published slice is 64 of 128
    clock, cpu = measure(lambda: metrics.score(fused[0], mri, pet, protocol="published"), 5)
    print(f"{'published':12} one subject  {clock:7.3f} s   CPU {cpu:7.3f} s")


if __name__ == "__main__":
    main()
