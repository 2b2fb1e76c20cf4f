"""The voxelwise optimum: a fused volume improved voxel by voxel until the objective falls no more.

For one pair the objective can be minimised over the fused voxels themselves, without any network.
No network trained on that objective can write a volume of smaller loss for that pair, so the
*excess* says how far a network is from its limit: (loss - optimum) / (loss of the average -
optimum). The minimum is the one within [0, 1], which is all that can be written: without that bound
voxels around the head become negative, and the loss falls by up to a sixth of what there is to
gain.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from inference.trained import TrainedModel
from losses import Objective, build_objective
from utils.errors import InputError

LEARNING_RATE = 2e-2  # from the average
NETWORK_RATE = 1e-2  # from a network's output, which is nearer
UNHURRIED = 30  # steps from which the whole rate is taken; a few large ones would end farther away
STEPS = 100  # from the average to within 0.1 % of the optimum's loss
OBJECTIVE_FORM = "NAME, NAME:MRI:PET or NAME:ALPHA1:ALPHA2:BETA1:BETA2:GAMMA1:GAMMA2"
BLOCK = 128  # voxels a side whose gradient is computed at once: about 1 GB
HALO = 16  # voxels around a block that see the windows its own voxels lie in


def refine(
    fused: Tensor,
    mri: Tensor,
    pet: Tensor,
    objective: Objective,
    steps: int,
    lr: float = LEARNING_RATE,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Minimise the objective over the fused voxels, from a given start.

    Adam with a rate that falls linearly to 0. In volumes longer than a block the gradient is
    computed block by block, each with a halo as wide as the objectives' windows, so that it is the
    whole volume's, and all voxels take a step together. Blocks optimised one by one would differ in
    brightness, which nothing but the air around a head fixes where gradients are compared. Nothing
    is drawn at random: the same start gives the same volume.

    Args:
        fused: the start, (B, 1, D, H, W), such as the average or a network's output; not changed.
        mri, pet: same shape, in [0, 1].
        objective: what to minimise.
        steps: of Adam; 0 returns the start.
        lr: rate of the first step, in intensity per step; less where there are few steps.
        progress: called after every block of every step with the block's number of voxels; all
            calls add up to `steps` times the voxels of the volume.

    Returns:
        (B, 1, D, H, W) float32 on the start's device, without a gradient, in [0, 1] unless the
        start is returned. Beside the volumes it takes three of their size and a block's graph.
    """
    result, mri, pet = (volume.detach().float() for volume in (fused, mri, pet))
    result = result.clone()
    result.grad = torch.zeros_like(result)
    optimiser = torch.optim.Adam([result], lr=lr, fused=True)  # without copies of the volume
    whole = result.shape[2:]
    lr *= min(1.0, steps / UNHURRIED)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        for inside, around in _blocks(whole):
            volumes = [volume[:, :, *around] for volume in (result, mri, pet)]
            core = tuple(
                slice(i.start - a.start, i.stop - a.start)
                for i, a in zip(inside, around, strict=True)
            )
            part = result.grad[:, :, *inside]
            of_part = objective.within(volumes[0].shape[2:], whole)
            part.copy_(_gradient(*volumes, of_part, result.numel())[:, :, *core])
            if progress is not None:
                progress(part.numel())
        optimiser.step()
        result.clamp_(0, 1)
    result.grad = None
    return result


def _gradient(fused: Tensor, mri: Tensor, pet: Tensor, objective: Objective, scale: int) -> Tensor:
    """Of `scale` times the objective, by the fused voxels.

    A mean over voxels has gradients near 1e-8, which Adam would take for nothing.
    """
    with torch.enable_grad():
        variable = fused.detach().requires_grad_()
        loss = scale * objective(variable, mri, pet)[0]
    return torch.autograd.grad(loss, variable)[0]


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Blocks that tile a volume, each with its box one halo wider, cut off at the border."""
    axes = [list(_pieces(side)) for side in shape]
    for d in axes[0]:
        for h in axes[1]:
            for w in axes[2]:
                inside, around = zip(d, h, w, strict=True)
                yield inside, around


def _pieces(side: int) -> Iterator[tuple[slice, slice]]:
    """Equal pieces of an axis, none longer than a block, beside their wider ones."""
    number = -(-side // BLOCK)
    borders = [side * i // number for i in range(number + 1)]
    for first, last in zip(borders[:-1], borders[1:], strict=True):
        yield slice(first, last), slice(max(first - HALO, 0), min(last + HALO, side))


@dataclass(frozen=True)
class Refinement:
    """`refine` of a network's output, with a progress bar.

    Attributes:
        objective: what to minimise.
        steps: how often.
    """

    objective: Objective
    steps: int

    def __call__(self, fused: Tensor, mri: Tensor, pet: Tensor) -> Tensor:
        """(B, 1, D, H, W) each -> the refined volume, float32, on the device of `fused`.

        Raises:
            InputError: a side that is too short for the objective.
        """
        total = self.steps * fused.numel()
        try:
            with tqdm(total=total, desc="refining", unit="voxel", unit_scale=True) as bar:
                return refine(fused, mri, pet, self.objective, self.steps, NETWORK_RATE, bar.update)
        except ValueError as error:
            raise InputError("--refine", str(error), "leave the flag out for this pair") from error


def choose_refinement(
    steps: int, objective: str | None, network: TrainedModel
) -> Refinement | None:
    """What --refine and --objective ask for, with the objective of the training by default.

    Raises:
        InputError: an objective that there is not, none to take, or one without --refine.
    """
    if not steps:
        if objective:
            raise InputError("--objective", "is that of --refine", "give --refine N beside it")
        return None
    text = objective or network.objective
    if text is None:
        problem = f"{network.name} has no objective of volumes"
        raise InputError("--refine", problem, "name one by --objective, as salient-additive:1:1")
    print(f"refined by {steps} steps of {text}")
    return Refinement(parse_objective(text, "--objective"), steps)


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
