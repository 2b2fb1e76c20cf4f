"""The optimisers of a run: the published one, or Muon for matrices with Adam for the rest.

In training for small gaps to the optimum, one direction of a gradient outweighs all others and
changes its sign from pair to pair (more or less of everything); Adam follows it in all weights at
once. Muon's step is as long in each direction of a matrix: K. Jordan et al., "Muon: An optimizer
for hidden layers in neural networks", 2024. Its length is that of Adam's, so that one learning rate
serves both: J. Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2.
PyTorch has a Muon from 2.9 on, which takes no convolutions and no CUDA graph.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from training.config import TrainConfig

MUON = "muon"
MOMENTUM = 0.95
ADAM_LENGTH = 0.2  # root mean square of Adam's steps, in learning rates
# p(s) = a s + b s^3 + c s^5, five times, brings singular values between 0.002 and 1 near 1, within
# 0.3 of it: the most in as few products of matrices, and a step need not be more exact (Jordan).
_POLYNOMIAL = 3.4445, -4.7750, 2.0315
_TIMES = 5


class Muon(Optimizer):
    """Momentum whose singular values are all brought near 1.

    The weight of a convolution is a matrix of a row for each of its first dimension.

    Args:
        parameters: of two dimensions or more.
        lr: a number, or a tensor on the parameters' device that a CUDA graph reads.
        momentum: decay of the gradients' running mean, which is looked ahead of as Nesterov's.
    """

    def __init__(
        self, parameters: list[nn.Parameter], lr: float | torch.Tensor, momentum: float = MOMENTUM
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                mean = state["mean"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(mean, group["momentum"]).flatten(1)
                length = ADAM_LENGTH * max(ahead.shape) ** 0.5
                step = orthogonalised(ahead).mul_(length).view_as(parameter)
                parameter.sub_(step.mul_(group["lr"]))


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """U V^T of the singular value decomposition U S V^T, to within 0.3 in each singular value.

    Args:
        matrix: (N, M), float32 or wider; of singular values below 0.002 of its Frobenius norm less
            is left.

    Returns:
        (N, M); 0 where all of it is 0.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=torch.finfo(wide.dtype).tiny)
    first, third, fifth = _POLYNOMIAL
    for _ in range(_TIMES):
        square = wide @ wide.T
        wide = first * wide + (third * square + fifth * square @ square) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def build_optimizers(config: TrainConfig, model: nn.Module, in_graph: bool) -> list[Optimizer]:
    """The optimisers that share a network's parameters, Adam or what is published first.

    Args:
        in_graph: whether a CUDA graph records their steps.
    """
    options = dict(config.published.optimizer_options)
    if in_graph:
        options |= {"capturable": True, "fused": True}
    published = getattr(torch.optim, config.published.optimizer)
    if config.optimizer != MUON:
        return [published(model.parameters(), lr=config.lr, **options)]
    whole = matrices(model)
    known = set(map(id, whole))
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [published(rest, lr=config.lr, **options), Muon(whole, config.lr)]


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that mix all of a layer's inputs: of linear layers and whole convolutions.

    Filters of single channels are no matrix: no output has more than its own inputs.
    """
    convolutions = nn.Conv3d, nn.ConvTranspose3d
    return [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, convolutions) and module.groups == 1)
    ]
