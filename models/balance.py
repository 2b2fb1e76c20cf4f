"""One network for all balances of MRI and PET: a knob that the reader turns.

Training draws the share t of the MRI for each step; it weighs the objective and enters the network,
which thereby learns every balance at once. After HyperMorph (Hoopes, Hoffmann, Fischl, Guttag,
Dalca: "HyperMorph: amortized hyperparameter learning for image registration", IPMI 2021), with
feature-wise scales and shifts (FiLM: Perez et al., AAAI 2018) in the place of a hypernetwork.
"""

from collections.abc import Sequence

import torch
from torch import nn

HIDDEN = 32
NEUTRAL = 0.5


class Balance(nn.Module):
    """Scales and shifts a stream's tokens by the share that its source has.

    Both streams use the same weights, each with its own share: t for the MRI, 1 - t for the PET.
    All scales start as 1 and all shifts as 0, so that a network starts as the one without it. The
    share itself is a feature beside the hidden ones, so that what is proportional to it is learnt
    at once.

    Args:
        widths: token widths at the places where it acts.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(1, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))
        self.places = nn.ModuleList(nn.Linear(HIDDEN + 1, 2 * width) for width in widths)
        for place in self.places:
            nn.init.zeros_(place.weight)
            nn.init.zeros_(place.bias)

    def forward(self, tokens: torch.Tensor, share: torch.Tensor, place: int) -> torch.Tensor:
        """Tokens (B, D, H, W, C) of a stream whose source has a `share` (B,) in [0, 1]."""
        lead = 2 * share[:, None] - 1  # B, 1, from -1 to 1
        hidden = nn.functional.gelu(self.hidden(lead))  # B, HIDDEN
        changes = self.places[place](torch.cat((hidden, lead), dim=-1))  # B, 2 C
        scale, shift = changes[:, None, None, None].chunk(2, dim=-1)  # B, 1, 1, 1, C
        return tokens * (1 + scale) + shift

    @torch.no_grad()
    def start_in_proportion(self, channels: int) -> None:
        """Let the first channels of the last place start as twice their share of what they are."""
        self.places[-1].weight[:channels, HIDDEN] = 1


def shares(balance: float | torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The shares of MRI and PET, (B,) each, of a balance for all of a batch or for each sample.

    Args:
        balance: t, the share of the MRI in [0, 1], a number or (B,).
        like: (B, ..), whose batch, type and device they have.

    Raises:
        ValueError: for a balance outside [0, 1], where it is a number or on the CPU, or of another
            batch.
    """
    mri = torch.as_tensor(balance, dtype=like.dtype)
    if mri.ndim > 1 or (mri.ndim == 1 and len(mri) != len(like)):
        raise ValueError(f"one balance for {len(like)} samples, received {tuple(mri.shape)}")
    # What is on a GPU is not waited for, nor can it be in a CUDA graph.
    if mri.device.type == "cpu" and not bool(((mri >= 0) & (mri <= 1)).all()):
        raise ValueError(f"the balance is the MRI's share, 0 to 1, received {mri.tolist()}")
    mri = mri.to(like.device).expand(len(like))
    return mri, 1 - mri


def weights(balance: float | torch.Tensor) -> tuple[float | torch.Tensor, float | torch.Tensor]:
    """The objective's weights of MRI and PET at a balance; their sum is the published 2 + 1."""
    return 3 * balance, 3 * (1 - balance)
