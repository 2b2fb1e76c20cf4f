"""Pairs of heads to register, drawn from label maps: two bent anatomies, each of its own contrast.

After SynthMorph (Hoffmann et al., IEEE TMI 41(3), 2022): a network that has to align what it sees
in any two contrasts, judged by the overlap of the labels alone, learns anatomy and not intensities.
"""

from collections.abc import Sequence

import numpy as np
import torch

from data.synthesis.anatomy import Anatomy
from data.synthesis.crop import draw_aligned
from data.synthesis.dataset import SyntheticPairs
from data.synthesis.mri import draw_mri
from data.template_space import Space, to_unit

SAME = 0.5  # of the pairs are one anatomy bent in two ways, as SynthMorph's; the others are two
STRIPPED = 0.5  # of the pairs have lost their skulls
MARGIN_MM = (-1, 4)  # around a brain that is left

Drawn = tuple[torch.Tensor, torch.Tensor]  # image and labels


class SyntheticHeads(SyntheticPairs):
    """Pairs drawn anew in every epoch from (seed, epoch, index) alone.

    An item is as of `data.registration.HeadPairs`, with labels: numbers of
    `data.synthesis.tissues.TISSUES`.

    Args:
        anatomies: what is drawn from.
        space: the grid.
        length: pairs in an epoch.
        seed: of everything.
    """

    labelled = True

    def __init__(self, anatomies: Sequence[Anatomy], space: Space, length: int, seed: int) -> None:
        super().__init__(anatomies, space.size, length, seed)
        self.voxel_mm = float(space.affine[0, 0])

    def finish(self, item: dict, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Draw a pair: images and labels, float32 (1, size, size, size)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        first = rng.integers(len(self.anatomies))
        second = first if rng.random() < SAME else rng.integers(len(self.anatomies))
        stripped = rng.random() < STRIPPED
        volumes = {}
        with torch.no_grad():
            for name, number in (("moving", first), ("fixed", second)):
                anatomy = self.anatomies[number]
                image, labels = self._draw(anatomy, stripped, rng, generator)
                volumes |= {name: image[None], f"{name}_labels": labels[None].float()}
        order = "moving", "fixed", "moving_labels", "fixed_labels"
        return {name: volumes[name] for name in order}

    def _draw(
        self,
        anatomy: Anatomy,
        stripped: bool,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Drawn:
        """One head: image in [0, 1] and tissue numbers, (size, size, size)."""
        place = self.sizes[0], self.voxel_mm
        crop = draw_aligned(anatomy, *place, rng, generator, self.device)
        image = draw_mri(crop, rng, generator).clamp(min=0)
        labels = crop.tissues.mode(dim=0).values
        if stripped:
            inside = crop.near_brain(rng.uniform(*MARGIN_MM))
            image, labels = image * inside, labels * (inside > 0.5)
        return _in_unit_range(image), labels


def _in_unit_range(image: torch.Tensor) -> torch.Tensor:
    """As `to_unit` does with files, on the image's device."""
    values = to_unit(image.cpu().numpy(), "synthetic head")
    return torch.from_numpy(values).to(image.device)
