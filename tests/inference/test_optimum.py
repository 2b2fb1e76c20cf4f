"""The voxelwise optimum: known minimisers, determinism, blocks."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.subjects import find_subjects
from data.volume import read_volume
from inference import optimum
from inference.optimum import NETWORK_RATE, Optimum, excess, parse_objective, refine
from losses import build_objective
from losses.objective import OBJECTIVES
from metrics.transfer import Lesion, lesion_transfer
from utils.errors import InputError


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    noise = np.random.default_rng(2).standard_normal((2, 1, 1, 16, 18, 20)).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, (0, 0, 0, 1, 1, 1))
    mri, pet = torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth))
    return mri, pet


def test_the_intensity_term_alone_leads_to_the_weighted_mean(pair):
    mri, pet = pair
    objective = build_objective("ssim-gradient-intensity", alpha=(0, 0), beta=(0, 0), gamma=(2, 1))
    found = refine((mri + pet) / 2, mri, pet, objective, steps=300)
    torch.testing.assert_close(found, (2 * mri + pet) / 3, atol=1e-3, rtol=0)


def test_one_source_twice_is_its_own_optimum(pair):
    mri, _ = pair
    objective = build_objective("ssim-gradient-intensity")
    found = refine(0.8 * mri + 0.1, mri, mri, objective, steps=200)
    assert (found - mri).abs().max() < 0.02


def test_the_loss_falls_below_that_of_the_start_and_any_mix(pair):
    mri, pet = pair
    objective = build_objective("ssim-gradient-intensity")
    found = refine((mri + pet) / 2, mri, pet, objective, steps=60)
    loss = objective(found, mri, pet)[0]
    for share in torch.linspace(0, 1, 11):
        assert loss < objective(share * mri + (1 - share) * pet, mri, pet)[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_few_steps_lead_nearer_and_more_of_them_nearer_still(pair, name):
    mri, pet = pair
    objective = build_objective(name)
    near = refine((mri + pet) / 2, mri, pet, objective, steps=10)
    losses = [
        float(objective(refine(near, mri, pet, objective, steps, NETWORK_RATE), mri, pet)[0])
        for steps in (0, 1, 2, 4, 8)
    ]
    assert losses == sorted(losses, reverse=True)


def test_the_start_stays_as_it_is_and_runs_repeat(pair):
    mri, pet = pair
    start = (mri + pet) / 2
    before = start.clone()
    objective = build_objective("lncc-ssim-l1")
    first, second = (refine(start, mri, pet, objective, steps=5) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(start, before) and not start.requires_grad and not first.requires_grad
    assert torch.equal(refine(start, mri, pet, objective, steps=0), start)


def test_works_under_no_grad_and_takes_half_precision(pair):
    mri, pet = pair
    objective = build_objective("ssim-gradient-intensity")
    with torch.no_grad():
        found = refine(mri.bfloat16(), mri, pet, objective, steps=3)
    assert found.dtype == torch.float32
    assert not torch.equal(found, mri.bfloat16().float())


@pytest.fixture
def long_pair() -> torch.Tensor:
    """MRI and PET, (2, 1, 1, 48, 24, 24), smooth."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 1, 12, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="trilinear")[:, None]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_blocks_give_what_the_whole_volume_gives(long_pair, monkeypatch, name):
    mri, pet = long_pair
    start, objective = (mri + pet) / 2, build_objective(name)
    whole = refine(start, mri, pet, objective, steps=20)
    monkeypatch.setattr(optimum, "BLOCK", 24)
    counted = []
    blocks = refine(start, mri, pet, objective, steps=20, progress=counted.append)
    assert sum(counted) == 20 * mri.numel()
    assert len(counted) == 2 * 20
    change = (whole - start).abs().mean()
    assert (blocks - whole).abs().mean() < 1e-4 * change


def test_excess():
    assert excess(0.9, 0.5, 0.9) == 1
    assert excess(0.5, 0.5, 0.9) == 0
    assert excess(0.54, 0.5, 0.9) == pytest.approx(0.1)


def test_the_salient_additive_optimum_passes_lesions_of_both_sources(synthetic_cohort):
    subject = find_subjects(synthetic_cohort).subjects[1]
    mri, pet = (read_volume(path).array for path in (subject.mri, subject.pet))
    mri, pet = (torch.from_numpy(a / a.max())[None, None] for a in (mri, pet))
    found = {}
    for name in ("salient-additive", "ssim-gradient-intensity"):
        objective = build_objective(name, alpha=(1, 1), beta=(1, 1), gamma=(1, 1))

        def fuse(mri, pet, objective=objective):
            return refine((mri + pet) / 2, mri, pet, objective, steps=40)

        kinds = (Lesion("mri", 8, -0.35), Lesion("pet", 16, -0.35))
        found[name] = lesion_transfer(fuse, mri, pet, (6, 6, 6), kinds, draws=1).columns()
    assert found["salient-additive"]["t_mri"] >= 0.75
    assert found["salient-additive"]["t_pet"] >= 0.65
    assert found["salient-additive"]["t_min"] > found["ssim-gradient-intensity"]["t_min"]


def test_the_method_is_the_optimum_from_the_average(pair):
    objective = build_objective("ssim-gradient-intensity")
    fused = Optimum(objective, steps=4)(*pair)
    assert torch.equal(fused, refine(sum(pair) / 2, *pair, objective, steps=4))


def test_objectives_by_name_and_weights():
    ratio = parse_objective("ssim-gradient-intensity:3:1", "--flag")
    assert [tuple(w) for w in ratio.weights.values()] == [(3, 1)] * 3
    six = parse_objective("lncc-ssim-l1:1:2:3:4:5:6", "--flag")
    assert list(six.weights.values()) == [(1, 2), (3, 4), (5, 6)]
    assert list(parse_objective("lncc-ssim-l1", "--flag").weights.values()) == [(2, 1)] * 3


@pytest.mark.parametrize("text", ["dice", "lncc-ssim-l1:1", "lncc-ssim-l1:a:b", "lncc-ssim-l1:0:0"])
def test_wrong_objectives_are_refused(text):
    with pytest.raises(InputError, match="--flag"):
        parse_objective(text, "--flag")
