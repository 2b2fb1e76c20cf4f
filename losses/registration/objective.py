"""What a registration network is trained with: likeness, smoothness, and overlap where it is known.

    loss = similarity_weight S + regulariser_weight R + dice_weight (1 - Dice)

Published weights: TransMorph, NCC 1 and diffusion 1 (IXI, atlas), and Dice 1 beside them (OASIS,
with labels); TransMorph-diff, 10,000 times the squared difference and the prior 1. SynthMorph, on
images of independent contrasts: Dice 1 and diffusion 1, no similarity.
"""

from collections.abc import Callable

import torch
from torch import nn

from losses.registration.mind import mind_loss
from losses.registration.overlap import soft_dice_loss
from losses.registration.prior import velocity_prior
from losses.registration.regularisers import bending_loss, diffusion_loss
from losses.registration.similarity import mse_loss, ncc_loss

SIMILARITIES = {"ncc": ncc_loss, "mse": mse_loss, "mind": mind_loss}
NO_SIMILARITY = "none"
FIELD_REGULARISERS = {"diffusion": diffusion_loss, "bending": bending_loss}
PRIOR = "prior"  # of TransMorph-diff alone
REGULARISERS = (*FIELD_REGULARISERS, PRIOR)
MOST_LABELS = 32  # of a step; of more a part is drawn, so that memory has a limit

Warp = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class RegistrationObjective:
    """The weighted sum, with each term named.

    Args:
        warp: `(source, displacement) -> result`, trilinear.
        similarity: a name in `SIMILARITIES`, or "none".
        regulariser: a name in `REGULARISERS`.
        weights: of similarity, regulariser and Dice.
        variant: of the prior, see `losses.registration.prior`.

    Raises:
        ValueError: for an unknown name, or where neither similarity nor Dice has a weight.
    """

    def __init__(
        self,
        warp: Warp,
        similarity: str = "ncc",
        regulariser: str = "diffusion",
        weights: tuple[float, float, float] = (1.0, 1.0, 0.0),
        variant: str = "paper",
    ) -> None:
        known = (*SIMILARITIES, NO_SIMILARITY)
        if similarity not in known:
            raise ValueError(f"unknown similarity {similarity!r}, choose from {', '.join(known)}")
        if regulariser not in REGULARISERS:
            names = ", ".join(REGULARISERS)
            raise ValueError(f"unknown regulariser {regulariser!r}, choose from {names}")
        if similarity == NO_SIMILARITY:
            weights = 0.0, *weights[1:]
        if not (weights[0] or weights[2]):
            raise ValueError("neither the similarity nor Dice has a weight: nothing is aligned")
        self.warp, self.variant = warp, variant
        self.similarity, self.regulariser, self.weights = similarity, regulariser, weights

    def __call__(
        self,
        network: nn.Module,
        moving: torch.Tensor,
        fixed: torch.Tensor,
        moving_labels: torch.Tensor | None = None,
        fixed_labels: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Register a batch and compute the loss.

        Args:
            network: its `field(moving, fixed)` has a `displacement`, and what the prior needs.
            moving, fixed: (B, 1, D, H, W) in [0, 1].
            moving_labels, fixed_labels: same shape, whole numbers; needed where Dice has a weight.

        Returns:
            The scalar to minimise, and each unweighted term as a detached scalar.
        """
        field = network.field(moving, fixed)
        similarity_weight, regulariser_weight, dice_weight = self.weights
        terms = {}
        if similarity_weight:
            warped = self.warp(moving, field.displacement)
            terms[self.similarity] = SIMILARITIES[self.similarity](warped, fixed)
        terms[self.regulariser] = self._roughness(field)
        if dice_weight:
            terms["dice"] = self._dice(field.displacement, moving_labels, fixed_labels)
        weights = {
            self.similarity: similarity_weight,
            self.regulariser: regulariser_weight,
            "dice": dice_weight,
        }
        total = sum(weights[name] * value for name, value in terms.items())
        return total, {name: value.detach() for name, value in terms.items()}

    def _roughness(self, field) -> torch.Tensor:
        if self.regulariser == PRIOR:
            parts = field.mean, field.log_variance, field.integrated
            return velocity_prior(*parts, variant=self.variant)
        return FIELD_REGULARISERS[self.regulariser](field.displacement)

    def _dice(
        self, displacement: torch.Tensor, moving: torch.Tensor, fixed: torch.Tensor
    ) -> torch.Tensor:
        """1 - Dice of what the two have in common, the background left out."""
        present = fixed.unique()
        present = present[torch.isin(present, moving.unique()) & (present != 0)]
        if not len(present):
            return displacement.new_zeros(())
        if len(present) > MOST_LABELS:
            chosen = torch.randperm(len(present))[:MOST_LABELS]
            present = present[chosen.to(present.device)]
        classes = present.view(1, -1, 1, 1, 1)
        warped = self.warp((moving == classes).to(displacement.dtype), displacement)
        return soft_dice_loss(warped, (fixed == classes).to(displacement.dtype))
