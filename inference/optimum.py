"""The voxelwise optimum: a fused volume improved voxel by voxel until the objective falls no more.

For one pair the objective can be minimised over the fused voxels themselves, without any network.
No network trained on that objective can write a volume of smaller loss for that pair, so the
*excess* says how far a network is from its limit: (loss - optimum) / (loss of the average -
optimum). The minimum is the one within [0, 1], which is all that can be written: without that bound
voxels around the head become negative, and the loss falls by up to a sixth of what there is to
gain.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from inference.trained import TrainedModel
from losses import Objective, build_objective
from losses.ssim import WINDOW
from utils.errors import InputError, notice

STEPS = 100  # from the average to within 0.1 % of the optimum's loss
OBJECTIVE_FORM = "NAME, NAME:MRI:PET or NAME:ALPHA1:ALPHA2:BETA1:BETA2:GAMMA1:GAMMA2"
BLOCK = 1_500_000  # voxels whose gradient is computed at once: about 0.4 GB
HALO = WINDOW - 1  # voxels around a block that see the windows its own voxels lie in


@dataclass(frozen=True)
class Descent:
    """How Adam goes down.

    Attributes:
        rate: of the first step, in intensity per step; it falls linearly to 0.
        momentum: Adam's first beta.
        unhurried: steps from which the whole rate is taken, a share of it with fewer: a few large
            ones would end farther away.
    """

    rate: float
    momentum: float
    unhurried: int

    def rates(self, steps: int) -> list[float]:
        """The rate of each step."""
        first = self.rate * min(1.0, steps / self.unhurried)
        return [first * (1 - step / steps) for step in range(steps)]


FROM_AVERAGE = Descent(rate=2e-2, momentum=0.9, unhurried=30)
# A network's output is nearer: with less momentum three steps are most of the way.
FROM_NETWORK = Descent(rate=1e-2, momentum=0.3, unhurried=6)


def refine(
    fused: Tensor,
    mri: Tensor,
    pet: Tensor,
    objective: Objective,
    steps: int,
    descent: Descent = FROM_AVERAGE,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Minimise the objective over the fused voxels, from a given start.

    Adam with a rate that falls linearly to 0. In volumes larger than a block the gradient is
    computed block by block, each with a halo as wide as the objectives' windows, so that it is the
    whole volume's, and all voxels take a step together. Blocks optimised one by one would differ in
    brightness, which nothing but the air around a head fixes where gradients are compared. Nothing
    is drawn at random: the same start gives the same volume.

    Args:
        fused: the start, (B, 1, D, H, W), such as the average or a network's output; not changed.
        mri, pet: same shape, in [0, 1].
        objective: what to minimise.
        steps: of Adam; 0 returns the start.
        descent: how far they go.
        progress: called after every block of every step with the block's number of voxels; all
            calls add up to `steps` times the voxels of the volume.

    Returns:
        (B, 1, D, H, W) float32 on the start's device, without a gradient, in [0, 1] unless the
        start is returned. Beside the volumes it takes three of their size, a block's graph, and
        what the objective keeps of the sources, up to ten of their size.
    """
    result, mri, pet = (volume.detach().float() for volume in (fused, mri, pet))
    result = result.clone()
    if not steps:
        return result
    adam, gradient = _Adam(result, descent.momentum), torch.empty_like(result)
    blocks = [_Block(*boxes, mri, pet, objective) for boxes in _boxes(tuple(result.shape[2:]))]
    for rate in descent.rates(steps):
        for block in blocks:
            part = gradient[:, :, *block.inside]
            part.copy_(block.gradient(result))
            if progress is not None:
                progress(part.numel())
        adam.step(gradient, rate)
        result.clamp_(0, 1)
    return result


class _Adam:
    """Adam on one volume, in place; making PyTorch's own one imports its compiler, for a second.

    Args:
        volume: to change.
        momentum: its first beta; the second one is 0.999.
    """

    def __init__(self, volume: Tensor, momentum: float) -> None:
        self.volume, self.betas, self.taken = volume, (momentum, 0.999), 0
        self.mean, self.square = torch.zeros_like(volume), torch.zeros_like(volume)

    def step(self, gradient: Tensor, rate: float) -> None:
        """One step down this gradient, which is overwritten."""
        self.taken += 1
        first, second = self.betas
        self.mean.lerp_(gradient, 1 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = math.sqrt(1 - second**self.taken)
        torch.sqrt(self.square, out=gradient).add_(1e-8 * scale)
        size = -rate * scale / (1 - first**self.taken)
        self.volume.addcdiv_(self.mean, gradient, value=size)


Box = tuple[slice, ...]


class _Block:
    """A part of a volume and the objective there.

    Args:
        inside: the part.
        around: the same, one halo wider.
        mri, pet: of the whole volume.
        objective: of the whole volume.
    """

    def __init__(
        self, inside: Box, around: Box, mri: Tensor, pet: Tensor, objective: Objective
    ) -> None:
        self.inside, self.around = inside, around
        pairs = zip(inside, around, strict=True)
        self.core = tuple(slice(i.start - a.start, i.stop - a.start) for i, a in pairs)
        sources = [volume[:, :, *around] for volume in (mri, pet)]
        here = objective.within(sources[0].shape[2:], mri.shape[2:])
        self.loss = here.of_pair(*sources)

    def gradient(self, fused: Tensor) -> Tensor:
        """Of the objective by the part's voxels, times their number in the whole volume.

        A mean over voxels has gradients near 1e-8, which Adam would take for nothing.
        """
        with torch.enable_grad():
            variable = fused[:, :, *self.around].detach().requires_grad_()
            loss = fused.numel() * self.loss(variable)[0]
        return torch.autograd.grad(loss, variable)[0][:, :, *self.core]


def _boxes(shape: tuple[int, ...]) -> Iterator[tuple[Box, Box]]:
    """Boxes that tile a volume, each with its box one halo wider, cut off at the border."""
    numbers = _numbers(shape)
    axes = [list(_pieces(*axis)) for axis in zip(shape, numbers, strict=True)]
    for pieces in product(*axes):
        inside, around = zip(*pieces, strict=True)
        yield inside, around


def _numbers(shape: tuple[int, ...]) -> list[int]:
    """In how many pieces each axis is cut: the longest ones first, until a box is a block."""
    numbers = [1] * len(shape)
    while math.prod(map(math.ceil, np.divide(shape, numbers))) > BLOCK:
        longest = max(range(len(shape)), key=lambda axis: shape[axis] / numbers[axis])
        numbers[longest] += 1
    return numbers


def _pieces(side: int, number: int) -> Iterator[tuple[slice, slice]]:
    """Equal pieces of an axis, beside their wider ones."""
    borders = [side * i // number for i in range(number + 1)]
    for first, last in zip(borders[:-1], borders[1:], strict=True):
        yield slice(first, last), slice(max(first - HALO, 0), min(last + HALO, side))


@dataclass(frozen=True)
class Refinement:
    """`refine` of a network's output, with a progress bar.

    Attributes:
        steps: how often.
        objective: what to minimise, see `parse_objective`; None for that of the network's training
            at its present balance.
        asked_for: whether a pair that cannot be refined is an error; else it is said.
    """

    steps: int
    objective: str | None = None
    asked_for: bool = True

    def of(self, network: TrainedModel) -> Objective:
        """What is minimised of this network's output."""
        return parse_objective(self.objective or network.objective, "--objective")

    def __call__(self, network: TrainedModel, fused: Tensor, mri: Tensor, pet: Tensor) -> Tensor:
        """(B, 1, D, H, W) each -> the refined volume, float32, on the device of `fused`.

        Args:
            network: whose output `fused` is.

        Raises:
            InputError: a side that is too short for the objective, and it was asked for.
        """
        sources, total = (mri, pet, self.of(network), self.steps), self.steps * fused.numel()
        try:
            unit = {"unit": "voxel", "unit_scale": True}
            with tqdm(total=total, desc="refining", leave=False, disable=None, **unit) as bar:
                return refine(fused, *sources, FROM_NETWORK, bar.update)
        except ValueError as error:
            if not self.asked_for:
                notice(f"not refined: {error}")
                return fused
            raise InputError("--refine", str(error), "leave the flag out for this pair") from error


def choose_refinement(
    steps: int | None, objective: str | None, network: TrainedModel
) -> Refinement | None:
    """What --refine and --objective ask for, and without them what the network is to have.

    Raises:
        InputError: an objective that there is not, none to take, or one without --refine.
    """
    asked_for = steps is not None
    steps = steps if asked_for else network.refine
    if not steps:
        if objective:
            raise InputError("--objective", "is that of --refine", "give --refine N beside it")
        return None
    if not (objective or network.objective):
        problem = f"{network.name} has no objective of volumes"
        raise InputError("--refine", problem, "name one by --objective, as salient-additive:1:1")
    refinement = Refinement(steps, objective, asked_for)
    refinement.of(network)
    print(f"refined by {steps} steps of {objective or network.objective}")
    return refinement


class Refined(nn.Module):
    """A network and some steps from its output, as a fusion method.

    Args:
        network: (mri, pet) -> fused.
        objective: of the steps.
        steps: see `refine`; 0 leaves the output as it is.
    """

    def __init__(self, network: nn.Module, objective: Objective, steps: int) -> None:
        super().__init__()
        self.network, self.objective, self.steps = network, objective, steps

    def forward(self, mri: Tensor, pet: Tensor) -> Tensor:
        """Fuse MRI and PET, (B, 1, D, H, W) in [0, 1] -> the same shape, in [0, 1]."""
        fused = self.network(mri, pet).clamp(0, 1)
        return refine(fused, mri, pet, self.objective, self.steps, FROM_NETWORK)


def excess(loss: float, optimum: float, average: float) -> float:
    """How far a loss is from the optimum: 1 for the plain average's, 0 for the optimum's."""
    return (loss - optimum) / (average - optimum)


class Optimum(nn.Module):
    """The voxelwise optimum from the average, as a fusion method.

    Args:
        objective: what to minimise.
        steps: see `refine`.
    """

    def __init__(self, objective: Objective, steps: int = STEPS) -> None:
        super().__init__()
        self.objective, self.steps = objective, steps

    def forward(self, mri: Tensor, pet: Tensor) -> Tensor:
        """Fuse MRI and PET, (B, 1, D, H, W) in [0, 1] -> the same shape, around [0, 1]."""
        return refine((mri + pet) / 2, mri, pet, self.objective, self.steps)


def parse_objective(text: str, flag: str) -> Objective:
    """The objective that `NAME[:MRI:PET]` stands for; published weights where none are given.

    Args:
        flag: where it was given.

    Raises:
        InputError: another form, an unknown name or wrong weights.
    """
    name, *numbers = text.split(":")
    try:
        weights = [float(number) for number in numbers]
        if len(weights) not in (0, 2, 6):
            raise ValueError(f"{len(weights)} weights")
        pairs = [weights[i : i + 2] for i in range(0, len(weights), 2)]
        return build_objective(name, *(pairs * 3 if len(pairs) == 1 else pairs))
    except ValueError as error:
        raise InputError(flag, f"{text!r}: {error}", f"give {OBJECTIVE_FORM}") from error
