"""The page of a fused pair: what it shows, and the balances that its slider goes through."""

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from data.volume import Volume
from inference.fuse import Fusion
from inference.page.build import Layer, Page
from inference.trained import TrainedModel

BALANCES = 0.0, 0.25, 0.5, 0.75, 1.0  # shares of the MRI that a page blends between
OWN_UNIT = "file's units"
NOTES = (
    "Research only, no medical device.",
    "Radiological convention: the patient's right is at the left of axial and coronal planes.",
    "Colour: as light as the fused volume; hue and saturation are the PET's uptake in its window.",
    "The PET is shown on the MRI's grid.",
)


def page_of(
    title: str,
    fusion: Fusion,
    pair: tuple[Volume, Volume],
    network: TrainedModel,
    scores: list[list[str]],
    balanced: dict[float, np.ndarray] | None,
) -> Page:
    """The page of one fused pair.

    Args:
        scores: see `inference.fuse.score_rows`.
        balanced: the fused volumes at several balances, see `fuse_balances`.
    """
    sources = []
    for name, volume, scale in zip(("MRI", "PET"), pair, fusion.scales, strict=True):
        sources.append(Layer(name, volume.array, scale, OWN_UNIT))
    layers = [Layer("fused", fusion.fused, unit="0 to 1")]
    about = network.description.removeprefix(f"{network.source}: ")  # a place on this machine
    notes = [*NOTES, f"Network: {network.source.name}, {about}"]
    if balanced:
        layers = [Layer(f"{share:.2f}", fused, unit="0 to 1") for share, fused in balanced.items()]
    return Page(
        title,
        pair[0].affine,
        *sources,
        layers,
        fusion.foreground,
        scores,
        notes,
        list(balanced) if balanced else None,
        getattr(network.model, "default_balance", 0.5),
    )


def fuse_balances(
    network: TrainedModel, fuse: Callable[[TrainedModel], Fusion], own: Fusion
) -> dict[float, np.ndarray] | None:
    """Fused volumes by share of the MRI, for a network that takes any; None for others.

    Args:
        fuse: fuses with the network as it is turned.
        own: what it made at its present balance.
    """
    if not network.turns:
        return None
    present = network.model.default_balance
    fused = {present: own.fused}
    try:
        others = [share for share in BALANCES if share != present]
        for share in tqdm(others, "balances of the page", leave=False, disable=None):
            fused[share] = fuse(network.turned_to(share)).fused
    finally:
        network.turned_to(present)
    return dict(sorted(fused.items()))
