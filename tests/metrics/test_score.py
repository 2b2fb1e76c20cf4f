"""`score` and `Scorer`: protocols, masks, slices, names, flags and errors."""

import math
import warnings

import numpy as np
import pytest
import torch

import metrics
from metrics import UndefinedScore, fsim, information, psnr, ssim
from metrics.images import TooSmall, filter_valid

FAST = ("psnr", "ssim", "nmi", "mi", "cc", "sd")
BODY = (slice(6, 44), slice(8, 46), slice(5, 27))


def subject(shape=(52, 50, 30), seed=0):
    """A head without symmetry on a zero background, and a fusion of its two sources."""
    generator = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    inside = np.zeros(shape)
    inside[BODY] = 1
    mri = (
        0.3
        + 0.4 * grid[0]
        + 0.2 * np.sin(9 * grid[1] + 4 * grid[2])
        + 0.05 * generator.random(shape)
    ) * inside
    pet = (0.2 + 0.5 * grid[2] * grid[1] + 0.05 * generator.random(shape)) * inside
    return [volume.astype(np.float32) for volume in (0.6 * mri + 0.4 * pet, mri, pet)]


def published_volume(seed=0):
    generator = np.random.default_rng(seed)
    return generator.random((64, 96, 128)).astype(np.float32)


def keys_of(names):
    """The keys that `score` returns for these metrics."""
    keys = []
    for name in names:
        keys += metrics.keys_of(name)
    return keys


def test_every_metric_in_the_table_has_its_keys_and_a_direction():
    scores = metrics.score(*subject(shape=(88, 88, 88)))
    expected = keys_of(metrics.METRICS)
    assert sorted(scores) == sorted(expected)
    assert all(isinstance(value, float) and math.isfinite(value) for value in scores.values())
    for name, metric in metrics.METRICS.items():
        assert (
            metric.direction in ("higher", "lower")
            and metric.title
            and metric.definition
            and metric.range
        )
        if metric.per_source:
            parts = scores[f"{name}_mri"], scores[f"{name}_pet"]
            assert scores[name] == pytest.approx(
                sum(parts) / (2 if metric.combine == "mean" else 1)
            )
            assert scores[f"{name}_min"] == min(parts)


def test_names_restrict_and_any_key_selects_its_family():
    fused, mri, pet = subject()
    scores = metrics.score(fused, mri, pet, names=("psnr", "ssim_min"))
    assert set(scores) == {*metrics.keys_of("psnr"), "psnr_pooled", *metrics.keys_of("ssim")}
    assert set(metrics.score(fused, mri, pet, names=["clipped"])) == {"clipped"}
    with pytest.raises(ValueError, match="dice.*psnr"):
        metrics.score(fused, mri, pet, names=("psnr", "dice"))
    with pytest.raises(ValueError, match="list"):
        metrics.score(fused, mri, pet, names="psnr")


def test_published_protocol_is_slice_64_of_the_last_axis_unclipped():
    fused, mri, pet = (published_volume(seed) * 1.4 - 0.2 * (seed == 0) for seed in range(3))
    scores = metrics.score(fused, mri, pet, protocol="published")
    released = {
        "psnr": psnr.psnr,
        "ssim": ssim.ssim,
        "nmi": information.nmi,
        "mi": information.mi,
        "fsim": fsim.fsim,
    }
    slices = [torch.from_numpy(volume[None, :, :, 64]).double() for volume in (fused, mri, pet)]
    for name, function in released.items():
        assert scores[f"{name}_mri"] == pytest.approx(
            float(function(slices[0], slices[1])), abs=1e-9
        )
        assert scores[f"{name}_pet"] == pytest.approx(
            float(function(slices[0], slices[2])), abs=1e-9
        )
    assert set(scores) == {*keys_of(released), "psnr_pooled", "clipped"}
    outside = (fused[:, :, 64] < 0) | (fused[:, :, 64] > 1)
    assert scores["clipped"] == pytest.approx(outside.mean())

    other = fused.copy()
    other[:, :, :64], other[:, :, 65:] = 0, 1
    assert metrics.score(other, mri, pet, protocol="published") == scores
    turned = [np.moveaxis(volume, 2, 1).copy() for volume in (fused, mri, pet)]
    assert metrics.score(*turned, protocol="published")["psnr"] != pytest.approx(
        scores["psnr"], abs=1e-6
    )


def test_published_protocol_gives_other_metrics_by_name():
    volumes = [published_volume(seed) for seed in range(3)]
    names = [name for name, metric in metrics.METRICS.items() if name not in ("ms_ssim", "clipped")]
    scores = metrics.score(*volumes, protocol="published", names=names)
    assert all(math.isfinite(scores[name]) for name in names)


def test_published_protocol_refuses_what_it_does_not_know():
    small = [np.random.default_rng(0).random((40, 40, 64))] * 3
    with pytest.raises(ValueError, match="slice 64.*64"):
        metrics.score(*small, protocol="published")
    volumes = [published_volume(seed) for seed in range(3)]
    with pytest.raises(ValueError, match="no mask"):
        metrics.score(*volumes, protocol="published", mask="head")
    with pytest.raises(ValueError, match="no mask and one plane"):
        metrics.score(*volumes, protocol="published", planes=3)
    with pytest.raises(ValueError, match="volume, published"):
        metrics.score(*volumes, protocol="slice")


def test_volume_protocol_clips_the_fused_volume_and_says_how_much():
    fused, mri, pet = subject()
    wild = fused.copy()
    wild[:2], wild[2] = -3, 7
    scores = metrics.score(wild, mri, pet, names=(*FAST, "clipped"))
    assert scores.pop("clipped") == pytest.approx(3 / 52)
    assert scores == metrics.score(np.clip(wild, 0, 1), mri, pet, names=FAST)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_clip_unit(make):
    volume = make([[-0.5, 0.25], [1.0, 1.5]])
    clipped, fraction = metrics.clip_unit(volume)
    assert type(clipped) is type(volume) and fraction == 0.5
    assert clipped.tolist() == [[0.0, 0.25], [1.0, 1.0]] and volume.tolist()[0][0] == -0.5
    assert metrics.clip_unit(clipped) == (clipped, 0.0)


def test_masks():
    fused, mri, pet = subject()
    inside = (mri > 0.05) | (pet > 0.05)
    head = metrics.score(fused, mri, pet, mask="head", names=FAST)
    assert head == metrics.score(fused, mri, pet, mask=inside, names=FAST)
    assert head == metrics.score(
        fused, mri, pet, mask=torch.from_numpy(inside.astype(np.uint8)), names=FAST
    )
    error = (fused - mri)[inside].astype(np.float64)
    assert head["psnr_mri"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-5)
    assert head["sd"] == pytest.approx(255 * fused[inside].astype(np.float64).std())

    plain = metrics.score(fused, mri, pet, names=FAST)
    assert head["psnr"] < plain["psnr"] and head["ssim"] < plain["ssim"]
    assert metrics.score(fused, mri, pet, mask="none", names=FAST) == plain

    spoilt = fused.copy()
    spoilt[~inside] = 0.9
    masked = metrics.score(spoilt, mri, pet, mask="head", names=FAST)
    for key in ("psnr", "psnr_pooled", "nmi", "mi", "cc", "sd"):
        assert masked[key] == pytest.approx(head[key]), key


def test_mask_of_ones_equals_no_mask_for_the_whole_set():
    fused, mri, pet = subject()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedScore)  # MS-SSIM does not fit
        plain = metrics.score(fused, mri, pet, planes=1)
        ones = metrics.score(fused, mri, pet, planes=1, mask=np.ones(mri.shape, bool))
    assert ones == pytest.approx(plain, abs=1e-9, nan_ok=True)


def test_bad_masks():
    fused, mri, pet = subject()
    with pytest.raises(ValueError, match="no voxel"):
        metrics.score(fused, mri, pet, mask=np.zeros(mri.shape), names=FAST)
    with pytest.raises(ValueError, match="'none', 'head'"):
        metrics.score(fused, mri, pet, mask="brain", names=FAST)
    with pytest.raises(ValueError, match="mask has shape"):
        metrics.score(fused, mri, pet, mask=np.ones((3, 3, 3)), names=FAST)


def test_empty_slices_are_not_scored():
    fused, mri, pet = subject()
    scorer = metrics.Scorer(mri, pet, planes=3, names=("qabf", "fmi_edge"))
    assert scorer.slices == (22, 38, 38)
    axial = metrics.Scorer(mri, pet, names=("qabf", "fsim"))
    filled = [volume[:, :, BODY[2]] for volume in (fused, mri, pet)]
    assert axial(fused) == pytest.approx(metrics.score(*filled, names=("qabf", "fsim")))


def test_three_planes_are_the_mean_of_the_planes():
    volumes = subject()
    names = ("fsim_standard", "fmi_edge")
    # Axial slices of the turned volume are the coronal and the sagittal ones, in the same
    # orientation.
    turned = []
    for axis in (2, 1, 0):
        fused, mri, pet = (np.moveaxis(volume, axis, 2) for volume in volumes)
        turned.append(metrics.score(fused, mri, pet, names=names))
    together = metrics.score(*volumes, planes=3, names=names)
    for key, value in together.items():
        assert value == pytest.approx(np.mean([scores[key] for scores in turned])), key
    with pytest.raises(ValueError, match="planes is 2"):
        metrics.score(*volumes, planes=2)


def test_no_slice_with_foreground_is_flagged():
    fused, mri, pet = (volume * 0 for volume in subject())
    fused[5, 5, 5] = mri[5, 5, 5] = pet[6, 5, 5] = 1
    with pytest.warns(UndefinedScore, match="qabf: no slice has 5% foreground"):
        scores = metrics.score(fused, mri, pet, names=("qabf", "psnr"))
    assert math.isnan(scores["qabf"]) and math.isfinite(scores["psnr_pet"])


def test_slices_where_a_source_is_empty_count_for_no_method():
    """PET often covers less than MRI; such slices have no FSIM against PET, whatever was fused."""
    fused, mri, pet = subject()
    pet[:, :, :12] = 0
    scorer = metrics.Scorer(mri, pet, names=("fsim",))
    assert scorer.slices == (15,)
    assert math.isfinite(scorer(fused)["fsim"])


def test_constant_fused_volume_is_flagged_by_name():
    fused, mri, pet = subject()
    scorer = metrics.Scorer(mri, pet, names=("nmi", "psnr", "cc", "fsim"))
    with pytest.warns(UndefinedScore, match="nmi_mri.*fsim_pet: 0/0 in 22 of 22 slices"):
        scores = scorer(np.full_like(fused, 0.5))
    undefined = {key for key, value in scores.items() if math.isnan(value)}
    assert undefined == set(keys_of(("nmi", "cc", "fsim")))
    assert "cc_pet" in scorer.undefined and "psnr" not in scorer.undefined
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer(fused)
    assert scorer.undefined == {}


def test_one_flat_slice_is_not_averaged_away():
    fused, mri, pet = subject()
    fused[:, :, 10] = 0.2
    with pytest.warns(UndefinedScore, match="1 of 22 slices"):
        assert math.isnan(metrics.score(fused, mri, pet, names=("fsim",))["fsim"])


def test_copy_of_a_source():
    _, mri, pet = subject()
    with pytest.warns(UndefinedScore, match="scd_pet"):
        copy = metrics.score(mri, mri, pet, names=("psnr", "ssim", "nmi", "scd"))
    average = metrics.score((mri + pet) / 2, mri, pet, names=("psnr", "ssim", "nmi"))
    assert copy["psnr"] == copy["psnr_mri"] == math.inf
    assert copy["ssim_mri"] == pytest.approx(1) and copy["nmi_mri"] == pytest.approx(2)
    assert math.isnan(copy["scd"]) and math.isnan(copy["scd_min"])
    assert copy["psnr_pooled"] < average["psnr_pooled"]
    assert copy["psnr_min"] < average["psnr_min"]


@pytest.mark.parametrize("culprit", ["fused", "mri", "pet"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_voxels_are_an_error_that_names_the_volume(culprit, value):
    volumes = dict(zip(("fused", "mri", "pet"), subject(), strict=True))
    volumes[culprit][3, 4, 5] = value
    with pytest.raises(ValueError, match=f"{culprit}: 1 of 78000 voxels are NaN or infinite"):
        metrics.score(**volumes, names=FAST)


def test_shapes_must_agree():
    fused, mri, pet = subject()
    with pytest.raises(ValueError, match=r"fused has shape \(52, 50, 29\), mri \(52, 50, 30\)"):
        metrics.score(fused[:, :, 1:], mri, pet)
    with pytest.raises(ValueError, match="volume is"):
        metrics.score(fused[0], mri[0], pet[0])


def test_volumes_smaller_than_a_window():
    volumes = [np.random.default_rng(seed).random((20, 20, 9)) for seed in range(3)]
    with pytest.warns(UndefinedScore, match="ssim: a side of 9 pixels"):
        scores = metrics.score(*volumes, names=("ssim", "psnr"))
    assert math.isnan(scores["ssim_min"]) and math.isfinite(scores["psnr"])
    with pytest.raises(TooSmall, match="shorter than a window of 5"):
        filter_valid(torch.rand(1, 4, 9), torch.ones(5))


def test_scoring_several_methods_at_once_is_the_same():
    fused, mri, pet = subject()
    names = (*FAST, "qabf", "fmi_pixel", "vif", "fsim")
    scorer = metrics.Scorer(mri, pet, mask="head", names=names)
    for method in (fused, np.maximum(mri, pet), fused * 0.9, fused):
        assert scorer(method) == metrics.score(method, mri, pet, mask="head", names=names)


def test_tensors_arrays_gradients_and_autocast_make_no_difference():
    fused, mri, pet = subject()
    names = (*FAST, "fsim", "fmi_pixel", "vif", "ncie")
    expected = metrics.score(fused, mri, pet, names=names)
    tensors = [torch.from_numpy(volume).requires_grad_() for volume in (fused, mri, pet)]
    with torch.autocast("cpu", torch.bfloat16):
        assert metrics.score(*tensors, names=names) == pytest.approx(expected, abs=1e-9)
    flipped = [volume[::-1].copy()[::-1] for volume in (fused, mri, pet)]  # negative strides
    assert metrics.score(*flipped, names=names) == pytest.approx(expected, abs=1e-9)


def test_inputs_are_left_alone():
    volumes = [torch.from_numpy(volume).double() for volume in subject()]
    before = [volume.clone() for volume in volumes]
    with pytest.warns(UndefinedScore, match="ms_ssim"):
        metrics.score(*volumes, mask="head")
    assert all(torch.equal(volume, copy) for volume, copy in zip(volumes, before, strict=True))


def test_thread_count_makes_no_difference():
    volumes = subject(shape=(46, 46, 16))  # as small as torch splits between threads
    names = (
        "psnr",
        "ssim",
        "nmi",
        "mi_bits",
        "cc",
        "ag",
        "ncie",
        "piella_qw",
        "vif",
        "qabf",
        "fsim",
        "fmi_pixel",
    )
    threads = torch.get_num_threads()
    scores = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            scores.append(metrics.score(*volumes, names=names))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert scores[0] == pytest.approx(scores[1], rel=0, abs=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu():
    volumes = [torch.from_numpy(volume) for volume in subject(shape=(96, 90, 88))]
    on_cpu = metrics.score(*volumes, mask="head")
    on_gpu = metrics.score(*(volume.cuda() for volume in volumes), mask="head")
    assert on_gpu == pytest.approx(on_cpu, rel=1e-5, abs=1e-5, nan_ok=True)
