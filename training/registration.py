"""Validation of a registration: labels that overlap, likeness and folds, before and after."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.data import Dataset

from losses.registration.similarity import ncc_loss
from metrics.registration import folded_fraction, mean_dice, sdlogj
from models.registration.warp import warp_labels
from training.validation import NETWORK, PICTURED_SUBJECTS, Validation
from utils.deformation import overlay, registration_figure, strip

BEFORE = "before"  # the affine alignment that the network is given

Register = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class RegistrationExample:
    """One pair to look at: (X, Y, Z) arrays, and the displacement (3, X, Y, Z) in voxels."""

    subject: str
    moving: np.ndarray
    fixed: np.ndarray
    warped: np.ndarray
    displacement: np.ndarray

    tag = "registration"
    words = "Before and after: moving head in red, fixed in cyan, grey where they agree."

    def figure(self, title: str) -> Figure:
        """Before, after and the bent grid, in three planes."""
        volumes = self.moving, self.fixed, self.warped, self.displacement
        return registration_figure(*volumes, title=title)

    def strip(self) -> np.ndarray:
        """The axial plane through the middle, before and after."""
        return strip(overlay(self.moving, self.fixed), overlay(self.warped, self.fixed))


@torch.no_grad()
def validate_registration(
    register: Register, pairs: Dataset, indices: Iterable[int], device: torch.device
) -> Validation:
    """Register whole heads, and score them before and after.

    Scores: `similarity` (local correlation, 0 to 1), and of the network also `folded` (share of
    voxels), `sdlogj` and `moved` (mean length in voxels); where labels are known `dice`.

    Args:
        register: the network in eval mode.
        pairs: see `data.registration.HeadPairs`.
        indices: those to score, a process's share; may be a progress bar.
        device: where to work.
    """
    found = Validation()
    for index in indices:
        item = pairs[0, index]
        moving, fixed = (item[key][None].to(device) for key in ("moving", "fixed"))  # 1, 1, D, H, W
        warped, displacement = register(moving, fixed)
        if not displacement.isfinite().all():
            found.not_finite = item["name"]
            return found
        before = {"similarity": -ncc_loss(moving, fixed).item()}
        after = {"similarity": -ncc_loss(warped, fixed).item()}
        if "fixed_labels" in item:
            labels = [item[f"{key}_labels"][None].to(device) for key in ("moving", "fixed")]
            moved = _moved_labels(labels[0], displacement)
            before["dice"] = mean_dice(labels[0], labels[1]).item()
            after["dice"] = mean_dice(moved, labels[1]).item()
        after["folded"] = folded_fraction(displacement).item()
        after["sdlogj"] = sdlogj(displacement).item()
        after["moved"] = displacement.norm(dim=1).mean().item()
        found.rows += [(NETWORK, after), (BEFORE, before)]
        if index < PICTURED_SUBJECTS:
            volumes = (volume[0, 0].cpu().numpy() for volume in (moving, fixed, warped))
            field = displacement[0].cpu().numpy()
            found.examples.append(RegistrationExample(item["name"], *volumes, field))
    return found


def _moved_labels(labels: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Labels of any numbers, warped; the smallest one is the background."""
    known, places = labels.unique(return_inverse=True)
    return known[warp_labels(places, displacement)]
