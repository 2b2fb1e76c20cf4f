"""Every metric by name: what it is, which way is better, and how its parts are prepared and run.

A family is a group of names that share their work. `build(view)` does once what depends on the
sources only, and returns `run(fused) -> {key: (B,) values}`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from . import correlation, edges, fmi, fsim, piella, reference_free, vif
from . import information as info
from . import psnr as psnr_module
from . import ssim as ssim_module
from .images import to_255

SIDES = ("mri", "pet")


@dataclass(frozen=True)
class Metric:
    """One line of the table of metrics.

    Args:
        title: as a table heading.
        definition: formula and settings in one line.
        range: the values it can take.
        direction: "higher" or "lower" is better.
        combine: how two sources become one value, "mean" or "sum"; None where it is not per source.
        slicewise: scored on slices and averaged by the volume protocol, instead of in 3-D.
    """

    title: str
    definition: str
    range: str
    direction: str = "higher"
    combine: str | None = "mean"
    slicewise: bool = False

    @property
    def per_source(self) -> bool:
        """Whether `name_mri`, `name_pet` and `name_min` exist beside `name`."""
        return self.combine is not None


METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "10 log10(1 / MSE) dB, peak 1; mean over the sources", "0..inf"),
    "psnr_pooled": Metric(
        "PSNR pooled", "10 log10(1 / mean of the two MSE) dB, peak 1", "0..inf", combine=None
    ),
    "ssim": Metric("SSIM", "Gaussian windows of 11, sigma 1.5, inside the image only", "-1..1"),
    "ms_ssim": Metric("MS-SSIM", "SSIM over four scales, weights renormalised to sum 1", "0..1"),
    "nmi": Metric("NMI", "(H_F + H_A) / H_FA, 100 bins from minimum to maximum", "1..2"),
    "mi": Metric("MI", "H_F + H_A - H_FA, nats, 10 bins from minimum to maximum", "0..2.303"),
    "mi_bits": Metric(
        "MI (bits)",
        "H_F + H_A - H_FA, 256 grey levels; sum over the sources",
        "0..16",
        combine="sum",
    ),
    "fsim": Metric(
        "FSIM", "as released: 6 orientations, rounded gradients", "0..1", slicewise=True
    ),
    "fsim_standard": Metric("FSIM (standard)", "as in the FSIM paper", "0..1", slicewise=True),
    "fmi_pixel": Metric("FMI pixel", "2 MI / (H_F + H_A) in 3x3 windows", "0..1", slicewise=True),
    "fmi_gradient": Metric(
        "FMI gradient", "FMI of the derivative along the second axis", "0..1", slicewise=True
    ),
    "fmi_edge": Metric("FMI edge", "FMI of thinned binary Sobel edges", "0..1", slicewise=True),
    "qabf": Metric(
        "Qabf", "Sobel strength and angle kept", "0..0.9748", combine=None, slicewise=True
    ),
    "vif": Metric(
        "VIF", "pixel domain, four scales; mean over the sources", "0..1", slicewise=True
    ),
    "viff": Metric(
        "VIFF", "VIF from the source of smaller gain", "0..1", combine=None, slicewise=True
    ),
    "scd": Metric("SCD", "r(F - PET, MRI) + r(F - MRI, PET)", "-2..2", combine="sum"),
    "cc": Metric("CC", "Pearson correlation; mean over the sources", "-1..1"),
    "ncie": Metric(
        "NCIE", "entropy of the eigenvalues of three mutual informations", "0.802..1", combine=None
    ),
    "q_mi": Metric("Q_MI", "2 [sum over sources of MI / (H_A + H_F)]", "0..2", combine=None),
    "piella_qw": Metric(
        "Piella QW", "UQI in windows of 8, weighted by saliency", "-1..1", combine=None
    ),
    "en": Metric("EN", "entropy in bits of 256 grey levels; no reference", "0..8", combine=None),
    "sd": Metric("SD", "standard deviation, x255; no reference", "0..127.5", combine=None),
    "sf": Metric("SF", "RMS of first differences, x255; no reference", "0..", combine=None),
    "ag": Metric("AG", "mean gradient magnitude, x255; no reference", "0..", combine=None),
    "clipped": Metric(
        "Clipped", "fraction of fused voxels outside [0, 1]", "0..1", "lower", combine=None
    ),
}

# What `score` cannot tell from one fused volume: the method has to be run on changed sources.
TRANSFER = Metric("Transfer", "how much of a lesion that one source shows arrives", "0..1")
ALL_METRICS = METRICS | {"transfer": TRANSFER}


class View(NamedTuple):
    """The two sources as the metrics of one kind see them: one volume, or a stack of slices."""

    mri: Tensor  # (B, *spatial), intensities in [0, 1]
    pet: Tensor  # same
    mask: Tensor | None  # same, boolean
    precision: type[np.floating] = np.float64  # of the bin edges of NMI and MI

    @property
    def sources(self) -> tuple[Tensor, Tensor]:
        return self.mri, self.pet


Run = Callable[[Tensor], dict[str, Tensor]]


class Family(NamedTuple):
    """Metrics that share their work; `released` ones are what the released code computes."""

    names: tuple[str, ...]
    build: Callable[[View], Run]
    released: bool = False

    @property
    def slicewise(self) -> bool:
        return METRICS[self.names[0]].slicewise


def keys_of(name: str) -> tuple[str, ...]:
    """The keys under which `score` returns a metric: its name, and its parts where it has them."""
    if not ALL_METRICS[name].per_source:
        return (name,)
    return (name, f"{name}_mri", f"{name}_pet", f"{name}_min")


def _per_source(
    name: str,
    describe: Callable[[Tensor, View], Any],
    compare: Callable[[Any, Any, View], Tensor],
    released: bool = False,
) -> Family:
    """A metric of two images: describe each once, then compare the fused one with each source."""

    def build(view: View) -> Run:
        known = [describe(source, view) for source in view.sources]

        def run(fused: Tensor) -> dict[str, Tensor]:
            mine = describe(fused, view)
            return _parts(name, [compare(mine, other, view) for other in known])

        return run

    return Family((name,), build, released)


def _parts(name: str, values: list[Tensor]) -> dict[str, Tensor]:
    return {f"{name}_{side}": value for side, value in zip(SIDES, values, strict=True)}


def _psnr(view: View) -> Run:
    def run(fused: Tensor) -> dict[str, Tensor]:
        errors = [psnr_module.mse(fused, source, view.mask) for source in view.sources]
        values = _parts("psnr", [psnr_module.psnr_of(error) for error in errors])
        return values | {"psnr_pooled": psnr_module.psnr_of(sum(errors) / 2)}

    return run


def _grey_levels(view: View) -> Run:
    known = [info.grey_histogram(source, view.mask) for source in view.sources]

    def run(fused: Tensor) -> dict[str, Tensor]:
        mine = info.grey_histogram(fused, view.mask)
        values = [info.mutual_information(mine, other) / info.LN2 for other in known]
        return _parts("mi_bits", values) | {"en": mine.entropy / info.LN2}

    return run


def _stretched(view: View) -> Run:
    def describe(image: Tensor) -> info.Histogram:
        return info.stretched_histogram(to_255(image), view.mask)

    known = [describe(source) for source in view.sources]
    between = info.mutual_information(*known)

    def run(fused: Tensor) -> dict[str, Tensor]:
        mine = describe(fused)
        return {"ncie": info.ncie_from(mine, *known, between), "q_mi": info.q_mi(mine, *known)}

    return run


def _correlations(view: View) -> Run:
    known = [correlation.centred(source, view.mask) for source in view.sources]

    def run(fused: Tensor) -> dict[str, Tensor]:
        mine = correlation.centred(fused, view.mask)
        cc = [correlation.correlation(mine, other) for other in known]
        scd = []
        for other, subtracted in zip(known, reversed(view.sources), strict=True):
            difference = correlation.centred(fused - subtracted, view.mask)
            scd.append(correlation.correlation(difference, other))
        return _parts("cc", cc) | _parts("scd", scd)

    return run


def _reference_free(view: View) -> Run:
    def run(fused: Tensor) -> dict[str, Tensor]:
        image = to_255(fused)
        return {
            "sd": reference_free.standard_deviation(image, view.mask),
            "sf": reference_free.spatial_frequency(image, view.mask),
            "ag": reference_free.average_gradient(image, view.mask),
        }

    return run


def _piella(view: View) -> Run:
    known = [piella.windows(to_255(source)) for source in view.sources]

    def run(fused: Tensor) -> dict[str, Tensor]:
        mine = piella.windows(to_255(fused))
        return {"piella_qw": piella.piella_from(mine, *known, view.mask).qw}

    return run


def _qabf(view: View) -> Run:
    known = [edges.edges(to_255(source)) for source in view.sources]

    def run(fused: Tensor) -> dict[str, Tensor]:
        mine = edges.edges(to_255(fused))
        return {"qabf": edges.qabf_from(mine, *known, view.mask)}

    return run


def _vif(view: View) -> Run:
    known = [vif.levels(to_255(source)) for source in view.sources]

    def run(fused: Tensor) -> dict[str, Tensor]:
        mine = vif.levels(to_255(fused))
        channels = [vif.gains(mine, other) for other in known]
        values = _parts("vif", [vif.vif_from(channel, view.mask) for channel in channels])
        return values | {"viff": vif.viff_from(*channels, view.mask)}

    return run


FAMILIES: tuple[Family, ...] = (
    Family(("psnr", "psnr_pooled"), _psnr, released=True),
    _per_source(
        "ssim",
        lambda image, view: ssim_module.moments(image),
        lambda fused, source, view: ssim_module.ssim_from(fused, source, view.mask),
        released=True,
    ),
    _per_source(
        "ms_ssim",
        lambda image, view: ssim_module.pyramid(image),
        lambda fused, source, view: ssim_module.ms_ssim_from(fused, source, view.mask),
    ),
    _per_source(
        "nmi",
        lambda image, view: info.range_histogram(image, info.NMI_BINS, view.mask, view.precision),
        lambda fused, source, view: info.nmi_from(fused, source),
        released=True,
    ),
    _per_source(
        "mi",
        lambda image, view: info.range_histogram(image, info.MI_BINS, view.mask, view.precision),
        lambda fused, source, view: info.mutual_information(fused, source),
        released=True,
    ),
    Family(("mi_bits", "en"), _grey_levels),
    _per_source(
        "fsim",
        lambda image, view: fsim.features(image, fsim.RELEASED),
        lambda fused, source, view: fsim.fsim_from(fused, source, view.mask),
        released=True,
    ),
    _per_source(
        "fsim_standard",
        lambda image, view: fsim.features(image, fsim.STANDARD),
        lambda fused, source, view: fsim.fsim_from(fused, source, view.mask),
    ),
    _per_source(
        "fmi_pixel",
        lambda image, view: fmi.windows(to_255(image)),
        lambda fused, source, view: fmi.fmi_from(fused, source, view.mask),
    ),
    _per_source(
        "fmi_gradient",
        lambda image, view: fmi.windows(fmi.gradient(to_255(image))),
        lambda fused, source, view: fmi.fmi_from(fused, source, view.mask),
    ),
    _per_source(
        "fmi_edge",
        lambda image, view: fmi.edge_codes(to_255(image)),
        lambda fused, source, view: fmi.fmi_edge_from(fused, source, view.mask),
    ),
    Family(("qabf",), _qabf),
    Family(("vif", "viff"), _vif),
    Family(("scd", "cc"), _correlations),
    Family(("ncie", "q_mi"), _stretched),
    Family(("piella_qw",), _piella),
    Family(("sd", "sf", "ag"), _reference_free),
)
