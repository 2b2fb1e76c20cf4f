"""What must not change a score, and what identical or flat images give."""

import math

import pytest
import torch

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

PAIRWISE = {
    "psnr": psnr.psnr,
    "ssim": ssim.ssim,
    "ms_ssim": ssim.ms_ssim,
    "nmi": information.nmi,
    "mi": information.mi,
    "mi_bits": information.mi_bits,
    "fsim": fsim.fsim,
    "fsim_standard": lambda f, s, mask=None: fsim.fsim(f, s, mask, fsim.STANDARD),
    "fmi_pixel": fmi.fmi,
    "fmi_gradient": lambda f, s, mask=None: fmi.fmi(f, s, mask, "gradient"),
    "fmi_edge": lambda f, s, mask=None: fmi.fmi(f, s, mask, "edge"),
    "vif": lambda f, s, mask=None: vif.vif(f * 255, s * 255, mask),
    "cc": correlation.cc,
}
JOINT = {
    "psnr_pooled": psnr.psnr_pooled,
    "scd": correlation.scd,
    "qabf": lambda f, a, b, mask=None: edges.qabf(f * 255, a * 255, b * 255, mask),
    "viff": lambda f, a, b, mask=None: vif.viff(f * 255, a * 255, b * 255, mask),
    "ncie": information.ncie,
    "piella_q0": lambda f, a, b, mask=None: piella.piella(f * 255, a * 255, b * 255, mask).q0,
    "piella_qw": lambda f, a, b, mask=None: piella.piella(f * 255, a * 255, b * 255, mask).qw,
}
ALONE = {
    "en": information.entropy,
    "sd": reference_free.standard_deviation,
    "sf": reference_free.spatial_frequency,
    "ag": reference_free.average_gradient,
}
# what three dimensions are defined for
VOLUMETRIC = (
    "psnr",
    "ssim",
    "nmi",
    "mi",
    "mi_bits",
    "cc",
    "psnr_pooled",
    "scd",
    "ncie",
    "piella_qw",
)


def images(*shape: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """A fused image and two sources with structure on several scales, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    ramp = torch.linspace(0, 3, shape[-1], dtype=torch.float64).sin()
    mri, pet = 0.5 * noise[0] + 0.4 * ramp, 0.3 * noise[1] + 0.5 * ramp.flip(0)
    return 0.6 * mri + 0.4 * pet + 0.05 * noise[2], mri, pet


def call(name: str, fused, mri, pet, mask=None) -> torch.Tensor:
    if name in ALONE:
        return ALONE[name](fused, mask)
    if name in PAIRWISE:
        return PAIRWISE[name](fused, mri, mask)
    return JOINT[name](fused, mri, pet, mask)


ALL = (*PAIRWISE, *JOINT, *ALONE)
# Phase congruency and the threshold of edge FMI are properties of the whole image.
LOCAL = [name for name in ALL if name not in ("fsim", "fsim_standard", "fmi_edge")]


@pytest.mark.parametrize("name", ALL)
def test_batch_equals_loop(name):
    stack = images(3, 96, 90)
    together = call(name, *stack)
    fused, mri, pet = (image.split(1) for image in stack)
    one_by_one = [call(name, *images) for images in zip(fused, mri, pet, strict=True)]
    alone = torch.cat(one_by_one)
    assert together.shape == (3,) and len(set(together.tolist())) == 3
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_mask_of_ones_equals_no_mask(name):
    stack = images(2, 96, 90)
    torch.testing.assert_close(
        call(name, *stack, torch.ones_like(stack[0], dtype=torch.bool)),
        call(name, *stack),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", VOLUMETRIC)
def test_mask_of_ones_equals_no_mask_in_volumes(name):
    stack = images(1, 14, 13, 16)
    torch.testing.assert_close(
        call(name, *stack, torch.ones_like(stack[0], dtype=torch.bool)),
        call(name, *stack),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", LOCAL)
def test_pixels_far_from_the_mask_do_not_count(name):
    stack = images(1, 192, 100)
    mask = torch.zeros(1, 192, 100, dtype=torch.bool)
    mask[:, :60] = True
    changed = [image.clone() for image in stack]
    for image in changed:
        image[:, 150:] = image[:, 150:].flip(2) * 0.5
    torch.testing.assert_close(
        call(name, *changed, mask), call(name, *stack, mask), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", JOINT)
def test_swap_of_the_sources(name):
    fused, mri, pet = images(1, 48, 52)
    torch.testing.assert_close(
        call(name, fused, pet, mri), call(name, fused, mri, pet), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", ["nmi", "mi", "cc", "fmi_pixel", "fmi_gradient", "fmi_edge"])
def test_affine_change_of_the_fused_image(name):
    fused, mri, pet = images(1, 48, 52)
    # Powers of two, so that the change itself does not round.
    torch.testing.assert_close(
        call(name, 0.25 * fused + 0.5, mri, pet), call(name, fused, mri, pet), rtol=0, atol=1e-6
    )
    assert abs(float(psnr.psnr(0.25 * fused + 0.5, mri) - psnr.psnr(fused, mri))) > 0.1


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "psnr": math.inf,
        "ssim": 1,
        "ms_ssim": 1,
        "nmi": 2,
        "fsim": 1,
        "fsim_standard": 1,
        "fmi_pixel": 1,
        "fmi_gradient": 1,
        "fmi_edge": 1,
        "vif": 1,
        "cc": 1,
        "psnr_pooled": math.inf,
        "viff": 1,
        "qabf": 0.9748,
        "piella_q0": 1,
        "piella_qw": 1,
    }.items(),
)
def test_identical_images(name, value):
    image = images(1, 96, 90)[1]
    assert float(call(name, image, image, image)) == pytest.approx(value, abs=1e-4)


def test_scd_of_identical_images_is_undefined():
    image = images(1, 20, 20)[1]
    assert math.isnan(correlation.scd(image, image, image))


def test_mi_of_identical_images_is_the_entropy():
    image = images(1, 40, 40)[1].clamp(0, 1)
    assert float(information.mi_bits(image, image)) == pytest.approx(
        float(information.entropy(image))
    )


@pytest.mark.parametrize("name", ["nmi", "cc", "ncie", "fsim", "fsim_standard"])
def test_constant_fused_image_has_no_value(name):
    _, mri, pet = images(1, 48, 52)
    assert math.isnan(call(name, torch.full_like(mri, 0.3), mri, pet))


@pytest.mark.parametrize("name", ["vif", "viff", "piella_qw", "nmi", "cc", "scd", "ncie", "fsim"])
def test_constant_sources_have_no_value(name):
    fused, *_ = images(1, 48, 52)
    flat = torch.full_like(fused, 0.25)
    assert math.isnan(call(name, fused, flat, flat))


@pytest.mark.parametrize("name", ["mi", "mi_bits", "vif"])
def test_constant_fused_image_says_nothing(name):
    _, mri, pet = images(1, 48, 52)
    assert float(call(name, torch.full_like(mri, 0.3), mri, pet)) == pytest.approx(0, abs=1e-9)


def test_no_image_has_a_better_pooled_psnr_than_the_average():
    _, mri, pet = images(1, 30, 30)
    average = float(psnr.psnr_pooled((mri + pet) / 2, mri, pet))
    for share in (0.0, 0.1, 0.4, 0.6, 0.9, 1.0):
        assert float(psnr.psnr_pooled(share * mri + (1 - share) * pet, mri, pet)) < average


def test_scd_is_the_same_for_every_mix_and_largest_for_the_sum():
    _, mri, pet = images(1, 30, 30)
    mixes = [float(correlation.scd(t * mri + (1 - t) * pet, mri, pet)) for t in (0.2, 0.5, 0.8)]
    assert mixes == pytest.approx([mixes[0]] * 3)
    assert float(correlation.scd(mri + pet, mri, pet)) == pytest.approx(2)


def test_fold_wraps_opposite_angles_and_legacy_spares_equal_strengths():
    fused, mri, pet = (image * 255 for image in images(1, 48, 52))
    assert edges.qabf(fused, mri, pet, rule="fold") > edges.qabf(fused, mri, pet)
    with pytest.raises(ValueError, match="standard"):
        edges.qabf(fused, mri, pet, rule="none")
