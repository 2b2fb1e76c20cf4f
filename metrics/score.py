"""One fused volume against its two sources, by a named protocol."""

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .images import Image, TooSmall, as_image, clip_unit, flat, head_mask, is_constant
from .registry import FAMILIES, METRICS, Family, View, keys_of

PROTOCOLS = ("volume", "published")
PUBLISHED_SLICE = 64  # of the last axis of the 128^3 volume
LEAST_FOREGROUND = 0.05  # of a slice; emptier slices are not scored


class UndefinedScore(UserWarning):
    """A score is NaN: its formula has no value for this input."""


class _Plane(NamedTuple):
    """The slices of one plane that are scored."""

    axis: int  # across which they are cut
    index: Tensor  # (n,)
    view: View  # of the sources, (n, H, W)


def score(
    fused: Image,
    mri: Image,
    pet: Image,
    protocol: str = "volume",
    mask: Image | str | None = None,
    planes: int = 1,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Score one fused volume; see `Scorer`, which scores several methods on one subject faster."""
    device = fused.device if isinstance(fused, Tensor) else None
    return Scorer(mri, pet, protocol, mask, planes, names, device=device)(fused)


class Scorer:
    """Scores fused volumes of one subject; what depends on the sources only is computed once.

    Args:
        mri, pet: (X, Y, Z) arrays or tensors in RAS order, intensities in [0, 1].
        protocol: "volume" clips the fused volume to [0, 1] and scores it in 3-D; the metrics that
            are only defined on pictures are the mean over the axial slices with enough foreground.
            "published" scores what the released code scores: slice 64 of the last axis (axial), no
            mask, no clipping. PSNR there is the plain mean of the two sources, SSIM follows the
            border rule of the libraries of its time, NMI and MI have bin edges in float32, FSIM is
            the released form.
        mask: None or "none", "head" (MRI or PET above 0.05), or an (X, Y, Z) array, true where it
            counts. Never made from the fused volume.
        planes: 1 for axial slices, 3 for the mean over axial, coronal and sagittal slices.
        names: the metrics to compute (names of `METRICS` or any key that they return); default all,
            and for "published" the ones that the released code computes, psnr_pooled and clipped.
        device: where to compute; default the device of `mri`.

    Everything is float64 (but see `metrics.fsim`), outside autocast and without gradients. While it
    scores it sets torch's global thread count to 1 and restores it, so score from one Python thread
    at a time.

    Raises:
        ValueError: on NaN or infinite voxels, shapes that differ, unknown names, an empty mask.
    """

    def __init__(
        self,
        mri: Image,
        pet: Image,
        protocol: str = "volume",
        mask: Image | str | None = None,
        planes: int = 1,
        names: Sequence[str] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; it is one of {', '.join(PROTOCOLS)}")
        if planes not in (1, 3):
            raise ValueError(f"planes is {planes}; it is 1 (axial) or 3 (all three planes)")
        device = None if device is None else torch.device(device)
        self.protocol = protocol
        self.families = _families(names, protocol)
        self.report_clipped = names is None or "clipped" in names
        self.undefined: dict[str, str] = {}
        self.mri = as_image(mri, "mri", device)
        self.pet = _like(self.mri, pet, "pet")
        if self.mri.ndim != 3:
            raise ValueError(f"mri has shape {tuple(self.mri.shape)}; a volume is (X, Y, Z)")
        if protocol == "published":
            self._prepare_published(mask, planes)
        else:
            self._prepare_volume(mask, planes)
        self._runs = _side_by_side(self._build, self.families)

    def _prepare_published(self, mask: Image | str | None, planes: int) -> None:
        if not _is_none(mask) or planes != 1:
            raise ValueError("the published protocol has no mask and one plane")
        depth = self.mri.shape[-1]
        if depth <= PUBLISHED_SLICE:
            raise ValueError(
                f"the published protocol scores slice {PUBLISHED_SLICE} of the last axis, which "
                f"has {depth}; bring the volume to 128^3 or use protocol='volume'"
            )
        mri = _published_slice(self.mri)  # 1, X, Y
        pet = _published_slice(self.pet)
        self._volume = View(mri, pet, None, precision=np.float32)
        self._planes = [_Plane(2, torch.tensor([PUBLISHED_SLICE]), self._volume)]

    def _prepare_volume(self, mask: Image | str | None, planes: int) -> None:
        head = head_mask(self.mri, self.pet)
        inside = self._mask(mask, head)
        batch = None if inside is None else inside[None]
        self._volume = View(self.mri[None], self.pet[None], batch)
        self._planes = []
        if not any(family.slicewise for family in self.families):
            return
        for axis in (2, 1, 0)[:planes]:
            index = self._foreground(head if inside is None else head & inside, axis)
            mri = _slices(self.mri, axis, index)  # n, H, W
            pet = _slices(self.pet, axis, index)
            region = None if inside is None else _slices(inside, axis, index)
            self._planes.append(_Plane(axis, index, View(mri, pet, region)))

    def _mask(self, mask: Image | str | None, head: Tensor) -> Tensor | None:
        """The voxels that count, None for all."""
        if _is_none(mask):
            return None
        if isinstance(mask, str):
            if mask != "head":
                raise ValueError(f"mask is {mask!r}; it is 'none', 'head' or an array")
            inside = head
        else:
            inside = _like(self.mri, mask, "mask") != 0
        if not inside.any():
            raise ValueError("mask: it has no voxel")
        return inside

    def _foreground(self, inside: Tensor, axis: int) -> Tensor:
        """The slices with enough foreground in which both sources vary."""
        filled = flat(inside.movedim(axis, 0)).double().mean(1) >= LEAST_FOREGROUND
        for source in (self.mri, self.pet):
            filled &= ~is_constant(source.movedim(axis, 0))
        return filled.nonzero()[:, 0]

    @property
    def slices(self) -> tuple[int, ...]:
        """How many slices of each plane (axial, coronal, sagittal) are averaged."""
        return tuple(len(plane.index) for plane in self._planes)

    def _build(self, family: Family) -> list | str:
        """The family's runs, one per view, or why it cannot be computed on this subject."""
        views = self._views(family)
        if not all(len(view.mri) for view in views):
            return f"no slice has {LEAST_FOREGROUND:.0%} foreground"
        try:
            return [family.build(view) for view in views]
        except TooSmall as error:
            return str(error)

    def _views(self, family: Family) -> list[View]:
        if family.slicewise:
            return [plane.view for plane in self._planes]
        return [self._volume]

    def __call__(self, fused: Image) -> dict[str, float]:
        """The scores of one fused (X, Y, Z) volume.

        A score that has no value for this input (a constant image, a volume smaller than the
        window) is NaN; one `UndefinedScore` warning names each and says why, and `undefined` holds
        the reasons by key until the next call.

        Raises:
            ValueError: on NaN or infinite voxels, or another shape than the sources'.
        """
        fused = _like(self.mri, fused, "fused")
        if self.protocol == "published":
            whole = _published_slice(fused)  # 1, X, Y
            _, clipped = clip_unit(whole)
            stacks = [whole]
        else:
            fused, clipped = clip_unit(fused)
            whole = fused[None]  # 1, X, Y, Z
            stacks = [_slices(fused, plane.axis, plane.index) for plane in self._planes]

        def run(family: Family) -> tuple[dict[str, float], dict[str, str]]:
            images = stacks if family.slicewise else [whole]
            return _family_scores(family, self._runs[family], images)

        scores, self.undefined = {}, {}
        for values, reasons in _side_by_side(run, self.families).values():
            scores |= values
            self.undefined |= reasons
        if self.undefined:
            lines = [f"{key}: {reason}" for key, reason in self.undefined.items()]
            text = "; ".join(lines)
            warnings.warn(f"undefined scores: {text}", UndefinedScore, stacklevel=2)
        return scores | {"clipped": clipped} if self.report_clipped else scores


def _families(names: Sequence[str] | None, protocol: str) -> list[Family]:
    """The families that compute these names; None: all that the protocol has."""
    if names is None:
        return [f for f in FAMILIES if protocol == "volume" or f.released]
    if isinstance(names, str):
        raise ValueError(f"names is the text {names!r}; it is a list of names")
    wanted = set(names) - {"clipped"}
    chosen = []
    for family in FAMILIES:
        keys = set()
        for name in family.names:
            keys.update(keys_of(name))
        if keys & wanted:
            chosen.append(family)
        wanted -= keys
    if wanted:
        unknown = ", ".join(sorted(wanted))
        raise ValueError(f"unknown metrics: {unknown}; known: {', '.join(METRICS)}")
    return chosen


def _is_none(mask: Image | str | None) -> bool:
    return mask is None or (isinstance(mask, str) and mask == "none")


def _published_slice(volume: Tensor) -> Tensor:
    """(X, Y, Z) -> (1, X, Y): the slice that the released code scores."""
    return volume[None, :, :, PUBLISHED_SLICE]


def _like(reference: Tensor, volume: Image, name: str) -> Tensor:
    tensor = as_image(volume, name, reference.device)
    if tensor.shape != reference.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, mri {tuple(reference.shape)}")
    return tensor


def _slices(volume: Tensor, axis: int, index: Tensor) -> Tensor:
    """(X, Y, Z) -> (n, H, W): the slices `index` across `axis`, the other axes in their order."""
    return volume.movedim(axis, 0)[index]


def _side_by_side(function: Callable[[Family], Any], families: list[Family]) -> dict[Family, Any]:
    """The results by family; slicewise families run beside each other, one thread each.

    Many of the operations are short: splitting each one between torch's threads gains little, and
    costs a multiple on a busy machine. One thread per operation also makes the scores independent
    of the number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            futures = {f: pool.submit(function, f) for f in families if f.slicewise}
            # Those of whole volumes stay here, so that only one takes its memory at a time.
            results = {f: function(f) for f in families if not f.slicewise}
            results |= {f: future.result() for f, future in futures.items()}
    finally:
        torch.set_num_threads(threads)
    return {family: results[family] for family in families}  # in the order asked for


def _family_scores(
    family: Family, runs: list | str, stacks: list[Tensor]
) -> tuple[dict[str, float], dict[str, str]]:
    """Average over slices, then planes, then sources; the second result says what has no value."""
    scores, reasons = {}, {}
    if isinstance(runs, str):
        for name in family.names:
            scores |= dict.fromkeys(keys_of(name), float("nan"))
            reasons[name] = runs
        return scores, reasons
    per_plane = [run(stack) for run, stack in zip(runs, stacks, strict=True)]
    means = {}
    for key in per_plane[0]:
        values = [plane[key] for plane in per_plane]  # of every slice, plane by plane
        means[key] = float(torch.stack([v.mean() for v in values]).mean())
        together = torch.cat(values)
        missing = int(together.isnan().sum())
        if missing:
            where = f" in {missing} of {len(together)} slices" if family.slicewise else ""
            reasons[key] = f"0/0{where} (constant, equal to a source, or no window in the mask)"
    for name in family.names:
        scores |= _combine(name, means)
    return scores, reasons


def _combine(name: str, means: dict[str, float]) -> dict[str, float]:
    """The value of a metric, and its parts where it has them."""
    metric = METRICS[name]
    if not metric.per_source:
        return {name: means[name]}
    mri, pet = means[f"{name}_mri"], means[f"{name}_pet"]
    total = mri + pet
    lowest = float("nan") if math.isnan(total) else min(mri, pet)
    value = total / 2 if metric.combine == "mean" else total
    return dict(zip(keys_of(name), (value, mri, pet, lowest), strict=True))
