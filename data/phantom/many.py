"""Several synthetic heads, made beside each other."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from data.phantom.head import Phantom, make_subject

MOST = 4  # beside each other: a head of 1.5 mm takes three quarters of a GB while it is made


def make_subjects(seeds: Iterable[int], voxel_mm: float) -> Iterator[Phantom]:
    """The heads of these seeds, in their order, each as `make_subject` makes it.

    NumPy and SciPy let other threads run while they compute, so two processors make twice as many.

    Args:
        seeds: of the subjects; asked for as heads are taken.
        voxel_mm: edge of the cubic voxels.
    """
    threads = min(MOST, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque = deque()
        for seed in seeds:
            waiting.append(pool.submit(make_subject, seed, voxel_mm))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
