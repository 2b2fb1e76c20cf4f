"""Every golden value that has a metric here, within the tolerances of its README."""

import math
import warnings

import numpy as np
import pytest
import torch

import metrics
from metrics import (
    correlation,
    edges,
    fmi,
    fsim,
    information,
    piella,
    psnr,
    reference_free,
    ssim,
    vif,
)
from metrics.images import head_mask, to_255
from tests.helpers.golden import golden_tensors

TRIPLES = ("spm_mix", "harvard25_avg", "harvard41_max", "synthetic")

# key: (function of fused and one source, absolute tolerance); images in [0, 1]
UNIT_SCALE = {
    "psnr64": (psnr.psnr, 1e-6),
    "ssim_valid64": (ssim.ssim, 1e-6),
    "msssim4": (ssim.ms_ssim, 1e-6),
    "nmi100_f64": (information.nmi, 1e-6),
    "mi10_f64": (information.mi, 1e-6),
    "fsim_rel_f64": (fsim.fsim, 1e-6),
    "fsim_std": (lambda f, s: fsim.fsim(f, s, form=fsim.STANDARD), 2e-6),
    "mi256_bits_u8": (information.mi_bits, 1e-8),
}

# key without its suffix: (function, relative tolerance); images on the 0..255 scale
PER_SOURCE = {
    "fmi_pixel": (lambda f, s: fmi.fmi(f, s, feature="pixel"), 1e-8),
    "fmi_gradient": (lambda f, s: fmi.fmi(f, s, feature="gradient"), 1e-8),
    "fmi_edge": (lambda f, s: fmi.fmi(f, s, feature="edge"), 2e-3),
    "vifp": (vif.vif, 1e-8),
    "cc": (correlation.cc, 1e-8),
}
JOINT = {
    "qabf": (edges.qabf, 1e-8),
    "qabf_fold": (lambda *images: edges.qabf(*images, rule="fold"), 1e-8),
    "qabf_legacyeq": (lambda *images: edges.qabf(*images, rule="legacy"), 1e-8),
    "qabf_liu": (lambda *images: edges.qabf(*images, rule="liu"), 1e-8),
    "viff_han": (vif.viff, 1e-8),
    "piella_q0": (lambda *images: piella.piella(*images).q0, 1e-6),
    "piella_qw": (lambda *images: piella.piella(*images).qw, 1e-8),
    "ncie": (information.ncie, 1e-8),
    "qmi_hossny": (
        lambda *images: information.q_mi(*map(information.stretched_histogram, images)),
        1e-8,
    ),
    "sd": (lambda f, *_: reference_free.standard_deviation(f), 1e-8),
    "sf": (lambda f, *_: reference_free.spatial_frequency(f), 1e-8),
    "ag": (lambda f, *_: reference_free.average_gradient(f), 1e-8),
}


def triple(name: str) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    values = golden_tensors(f"metrics/{name}.npz")
    return values, [values[key].double()[None] for key in ("fused", "mri", "pet")]


def as_volume(image: torch.Tensor) -> np.ndarray:
    """The image as slice 64 of a volume that is something else everywhere else."""
    volume = np.random.default_rng(0).random((*image.shape[1:], 66))
    volume[:, :, 64] = image[0]
    return volume


@pytest.mark.parametrize("name", TRIPLES)
@pytest.mark.parametrize("key", UNIT_SCALE)
def test_metrics_of_unit_images(name, key):
    values, (fused, mri, pet) = triple(name)
    function, tolerance = UNIT_SCALE[key]
    ours = [float(function(fused, source)) for source in (mri, pet)]
    np.testing.assert_allclose(ours, values[key][:2], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", TRIPLES)
@pytest.mark.parametrize("scale", ["f255", "u8"])
@pytest.mark.parametrize("key", PER_SOURCE)
def test_metrics_per_source_on_the_grey_scale(name, scale, key):
    values, images = triple(name)
    function, tolerance = PER_SOURCE[key]
    fused, *sources = (to_255(image, scale) for image in images)
    ours = [float(function(fused, source)) for source in sources]
    np.testing.assert_allclose(ours, values[f"{key}_{scale}"][:2], rtol=tolerance)


@pytest.mark.parametrize("name", TRIPLES)
@pytest.mark.parametrize("scale", ["f255", "u8"])
@pytest.mark.parametrize("key", JOINT)
def test_metrics_of_three_images_on_the_grey_scale(name, scale, key):
    values, images = triple(name)
    function, tolerance = JOINT[key]
    ours = float(function(*(to_255(image, scale) for image in images)))
    assert ours == pytest.approx(float(values[f"{key}_{scale}"]), rel=tolerance)


@pytest.mark.parametrize("name", TRIPLES)
def test_metrics_that_add_up_over_the_sources(name):
    values, (fused, mri, pet) = triple(name)
    assert float(psnr.psnr_pooled(fused, mri, pet)) == pytest.approx(
        float(values["psnr_pooled"]), abs=1e-6
    )
    assert float(information.entropy(fused)) == pytest.approx(float(values["en_u8"]), rel=1e-8)
    for scale in ("f255", "u8"):
        scd = correlation.scd(*(to_255(image, scale) for image in (fused, mri, pet)))
        assert float(scd) == pytest.approx(float(values[f"scd_{scale}"][2]), rel=1e-8)


@pytest.mark.parametrize("name", TRIPLES)
def test_published_protocol_gives_the_numbers_of_the_released_code(name):
    values, images = triple(name)
    scores = metrics.score(*map(as_volume, images), protocol="published")
    released = {
        "psnr": ("rel_psnr", 2e-5),
        "ssim": ("rel_ssim_tm141", 2e-5),
        "nmi": ("rel_nmi", 1e-6),
        "mi": ("rel_mi", 1e-6),
        "fsim": ("rel_fsim", 1e-5),
    }
    for metric, (key, tolerance) in released.items():
        ours = [scores[f"{metric}_mri"], scores[f"{metric}_pet"], scores[metric]]
        np.testing.assert_allclose(ours, values[key], rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("name", TRIPLES)
def test_foreground_mask(name):
    values, (fused, mri, pet) = triple(name)
    mask = head_mask(mri, pet)
    assert float(mask.double().mean()) == pytest.approx(float(values["mask_fraction"]))

    def nmi(*images):  # the golden value was computed from float32 pixels
        return information.nmi(*images, precision=np.float32)

    for function, key in ((psnr.psnr, "psnr"), (ssim.ssim, "ssim"), (nmi, "nmi")):
        ours = [float(function(fused, source, mask)) for source in (mri, pet)]
        np.testing.assert_allclose(ours, values[f"{key}_mask"][:2], rtol=0, atol=1e-6, err_msg=key)


def test_volume_protocol_in_three_dimensions():
    values = golden_tensors("metrics/spm_volume32_avg.npz")
    names = ("psnr", "ssim", "nmi", "mi", "mi_bits", "cc", "scd", "sd", "sf", "ag", "en")
    scores = metrics.score(values["fused"], values["mri"], values["pet"], names=names)
    keys = {
        "ssim": "ssim_valid",
        "nmi": "nmi100",
        "mi": "mi10_nats",
        "mi_bits": "mi256_bits_u8",
        "en": "en_u8",
    }
    for name in names:
        expected = values[keys.get(name, name)]
        if expected.ndim == 0:
            assert scores[name] == pytest.approx(float(expected), abs=1e-6), name
        else:
            ours = [scores[f"{name}_mri"], scores[f"{name}_pet"], scores[name]]
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6, err_msg=name)
    assert scores["psnr_pooled"] == pytest.approx(float(values["psnr_pooled"]), abs=1e-6)


DEGENERATE = {  # of the harvard25 pair: the released answers against MRI and PET
    "copy": {
        "psnr": (math.inf, 10.209048),
        "nmi": (2, 1.110414),
        "mi": (1.819525, 0.329409),
        "fsim": (1, 0.550321),
    },
    "zeros": {"psnr": (7.356765, 13.449846), "mi": (0, 0)},
    "half": {"psnr": (8.433748, 7.337152), "mi": (0, 0)},
    "doubled": {"psnr": (13.449846, 7.356765), "fsim": (0.894189, 0.678529)},
    "shifted": {"psnr": (12.856264, 18.001072), "fsim": (0.886622, 0.699118)},
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_as_released(case):
    _, (fused, mri, pet) = triple("harvard25_avg")
    images = {
        "copy": mri,
        "zeros": torch.zeros_like(mri),
        "half": torch.full_like(mri, 0.5),
        "doubled": fused * 2,
        "shifted": fused - 0.1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.UndefinedScore)
        scores = metrics.score(*map(as_volume, (images[case], mri, pet)), protocol="published")
    for metric, expected in DEGENERATE[case].items():
        tolerance = {"nmi": 1e-6, "mi": 1e-6}.get(metric, 2e-5)
        ours = (scores[f"{metric}_mri"], scores[f"{metric}_pet"])
        assert ours == pytest.approx(expected, abs=tolerance), metric
    if case in ("zeros", "half"):  # the released NMI is 1 here and its FSIM NaN; both are NaN
        assert math.isnan(scores["nmi"]) and math.isnan(scores["fsim_min"])
