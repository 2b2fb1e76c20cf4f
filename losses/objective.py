"""The training objectives: a weighted sum of three terms for each source.

    loss = sum over sources s of (alpha_s A_s + beta_s B_s + gamma_s G_s)

`ssim-gradient-intensity` (default): A = 1 - SSIM, B = masked gradient difference, G = squared
difference.

`lncc-ssim-l1` [R6], the released one: A = local cross-correlation, B = 1 - SSIM, G = absolute
difference.

`salient-additive`, for weights near 1:1: A = salient SSIM, B = 3 |grad f - grad MRI - grad PET|,
G = squared difference. The other two make the sources compete: in every window SSIM is won by the
one of stronger contrast, the masked gradient takes one of two, and what only the other one shows, a
lesion say, is lost. Here they do not compete. For unrelated sources of one contrast the structure
factor of SSIM with k (MRI + PET) is 2k / (2k^2 + 1): as large for the full sum, k = 1, as for the
average, k = 1/2, and largest at 0.7. So the contrast of both can be kept at no cost in SSIM. B asks
for k = 1, G holds the mean brightness, and A lets each source speak where it has something to
show. What its optima show is measured in docs/measures.md.

`salient-composite`, the one that the weights of this repository are trained with: A = composite
SSIM, B = 4.5 |grad f - grad S|, G = squared difference, with S = 0.8 (2 t MRI + 2 (1 - t) PET) and
t the MRI's share of a term's weights. Half of A asks for the contrast of S, half for salient SSIM.
The optimum of salient SSIM turns between the sources from place to place, which a network learns
slowly; most of what is asked here a linear filter does.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch

from losses.composite import CompositeSsim, composite_gradient_losses, composite_ssim_losses
from losses.gradient import additive_gradient_losses, gradient_losses
from losses.intensity import absolute_losses, squared_losses
from losses.lncc import lncc_losses
from losses.salient import salient_ssim_losses
from losses.ssim import WINDOW, ssim_losses

Term = Callable[..., list[torch.Tensor]]  # (fused, mri, pet) -> MRI's and PET's value

# The terms that alpha, beta and gamma weigh, in this order.
OBJECTIVES: dict[str, dict[str, Term]] = {
    "ssim-gradient-intensity": {
        "ssim": ssim_losses,
        "gradient": gradient_losses,
        "intensity": squared_losses,
    },
    "lncc-ssim-l1": {"lncc": lncc_losses, "ssim": ssim_losses, "l1": absolute_losses},
    "salient-additive": {
        "salient-ssim": salient_ssim_losses,
        "additive-gradient": additive_gradient_losses,
        "intensity": squared_losses,
    },
    "salient-composite": {
        "composite-ssim": composite_ssim_losses,
        "composite-gradient": composite_gradient_losses,
        "intensity": squared_losses,
    },
}
# Those that compare with a weighted sum of the sources, and so must know the MRI's share in it.
COMPOSITE = (composite_ssim_losses, composite_gradient_losses)
# Those most of whose work is the sources' own, in a form that does it once for a pair.
PREPARED = {composite_ssim_losses: CompositeSsim}
OVER_WINDOWS = ("ssim", "salient-ssim", "composite-ssim")  # a mean over whole windows; else voxels
SOURCES = ("mri", "pet")


class Objective:
    """The weighted sum, with each term named.

    Args:
        terms: the three terms by name, for alpha, beta and gamma.
        weights: (alpha, beta, gamma), each a pair (MRI, PET).
    """

    def __init__(self, terms: dict[str, Term], weights: Sequence[Sequence[float]]) -> None:
        self.terms = terms
        self.weights = dict(zip(terms, weights, strict=True))

    def __call__(
        self, fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss.

        Args:
            fused: (B, 1, D, H, W), any float type; terms are computed in float32 or wider.
            mri: same shape, in [0, 1].
            pet: same shape, in [0, 1].

        Returns:
            The scalar to minimise, and each unweighted term by name and source ("ssim/mri",
            "ssim/pet", ...) as detached scalars on the volumes' device.

        Raises:
            ValueError: for volumes of different shapes, or too small for SSIM's window of 11
                voxels.
        """
        if not fused.shape == mri.shape == pet.shape:
            shapes = ", ".join(str(tuple(v.shape)) for v in (fused, mri, pet))
            raise ValueError(f"fused, MRI and PET must have one shape, received {shapes}")
        return self.of_pair(mri, pet)(fused)

    def of_pair(
        self, mri: torch.Tensor, pet: torch.Tensor
    ) -> Callable[[torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """The loss of one pair, fused -> what a call returns: for many fused volumes of it.

        Args and raises: as a call's.
        """
        terms = {name: _of_pair(term, mri, pet) for name, term in self.terms.items()}

        def loss(fused: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            parts, values = [], {}
            for name, term in terms.items():
                by_source = zip(SOURCES, term(fused), self.weights[name], strict=True)
                for source, value, weight in by_source:
                    values[f"{name}/{source}"] = value.detach()
                    if isinstance(weight, torch.Tensor) or weight:
                        parts.append(weight * value)
            return torch.stack(parts).sum(), values

        return loss

    def within(self, part: Sequence[int], whole: Sequence[int]) -> "Objective":
        """What a part adds to the objective of a whole volume, its gradient block by block.

        Each term is a mean over voxels or over windows, and is weighted by the part's share of
        them. At voxels that lie in no window across the part's border the gradient is the whole
        volume's.

        Args:
            part, whole: D, H, W of both.
        """
        if tuple(part) == tuple(whole):
            return self
        weights = []
        for name, pair in self.weights.items():
            lost = WINDOW - 1 if name in OVER_WINDOWS else 0
            sides = zip(part, whole, strict=True)
            share = math.prod((side - lost) / (of - lost) for side, of in sides)
            weights.append([share * weight for weight in pair])
        return Objective(self.terms, weights)


def _of_pair(
    term: Term, mri: torch.Tensor, pet: torch.Tensor
) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """A term as a function of the fused volume alone."""
    plain, options = term, {}
    if isinstance(term, partial):
        plain, options = term.func, term.keywords
    if plain in PREPARED:
        return PREPARED[plain](mri, pet, **options)
    return lambda fused: term(fused, mri, pet)


Weight = float | torch.Tensor


def build_objective(
    name: str,
    alpha: Sequence[Weight] = (2, 1),
    beta: Sequence[Weight] = (2, 1),
    gamma: Sequence[Weight] = (2, 1),
) -> Objective:
    """The objective called `name` with weights (MRI, PET) for its three terms; published weights by
    default. Weights that are tensors, such as a CUDA graph needs, are taken as they are.

    Raises:
        ValueError: for an unknown name, a weight that is negative or not finite, or six zeros.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}, choose from {', '.join(OBJECTIVES)}")
    weights = [tuple(alpha), tuple(beta), tuple(gamma)]
    if not any(isinstance(weight, torch.Tensor) for pair in weights for weight in pair):
        weights = _checked(weights)
    terms = {}
    for (title, term), pair in zip(OBJECTIVES[name].items(), weights, strict=True):
        terms[title] = partial(term, share=_share(*pair)) if term in COMPOSITE else term
    return Objective(terms, weights)


def _checked(weights: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """The three pairs as floats.

    Raises:
        ValueError: for a weight that is negative or not finite, or six zeros.
    """
    weights = [tuple(map(float, pair)) for pair in weights]
    flat = [weight for pair in weights for weight in pair]
    if len(flat) != 6 or not all(0 <= weight < float("inf") for weight in flat):
        raise ValueError(f"loss weights must be six finite numbers of at least 0, received {flat}")
    if not any(flat):
        raise ValueError("all six loss weights are 0: there is nothing to minimise")
    return weights


def _share(mri: Weight, pet: Weight) -> Weight:
    """The MRI's share of a pair of weights."""
    total = mri + pet
    return mri / total if isinstance(total, torch.Tensor) or total else 0.5
