"""Steps of a training as one CUDA graph.

A step of a small network is some thousand kernels of some microseconds each. Starting them one by
one takes Python longer than they take, whatever the size of the volumes; a graph starts all of them
at once, and leaves the CPU free to draw or augment the next batch.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

WARM_UP = 3  # steps of a shape before it is recorded: kernels compile, an optimiser makes its state

Step = Callable[..., torch.Tensor]
Shapes = tuple[tuple[int, ...], ...]  # of a step's inputs


class StepGraph:
    """A function of tensors that is recorded once for each of their shapes and then played back.

    Args:
        step: tensors -> tensor, on a CUDA device; it must not wait for the device, and what it
            changes (weights, running means) it changes in place.
        device: the CUDA device.

    Attributes:
        taken: steps so far.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        self.step, self.device = step, device
        self.taken = 0
        self._graphs: dict[Shapes, _Recorded] = {}
        self._warmed_up: Counter[Shapes] = Counter()
        self._own = torch.cuda.Stream(device)  # a capture is not allowed on the default stream
        self._beside = torch.cuda.Stream(device)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is computed in here does not wait for the step that is under way."""
        with torch.cuda.stream(self._beside):
            yield

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Start a step; returns its result, which the next one overwrites.

        The first steps of each shape run as they are.
        """
        self.taken += 1
        shapes = tuple(tuple(given.shape) for given in inputs)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._beside)
        for given in inputs:
            given.record_stream(current)
        if self._warmed_up[shapes] < WARM_UP:
            self._warmed_up[shapes] += 1
            return self._as_it_is(inputs, current)
        if shapes not in self._graphs:
            self._graphs[shapes] = self._record(inputs)
        return self._graphs[shapes].play(inputs)

    def _as_it_is(
        self, inputs: tuple[torch.Tensor, ...], current: torch.cuda.Stream
    ) -> torch.Tensor:
        for given in inputs:
            given.record_stream(self._own)
        self._own.wait_stream(current)
        with torch.cuda.stream(self._own):
            result = self.step(*inputs)
        current.wait_stream(self._own)
        return result

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> "_Recorded":
        own = [given.clone() for given in inputs]
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        # Loading processes' threads go on pinning memory meanwhile. The graphs never run beside
        # each other and can have their memory in one place.
        pool = next((recorded.graph.pool() for recorded in self._graphs.values()), None)
        options = {"pool": pool, "stream": self._own, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **options):
            result = self.step(*own)
        return _Recorded(graph, own, result)


@dataclass(frozen=True)
class _Recorded:
    """A graph, the tensors that it reads and the one that it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor]
    result: torch.Tensor

    def play(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.result
