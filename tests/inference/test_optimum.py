"""The voxelwise optimum: known minimisers, determinism, blocks."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.subjects import find_subjects
from data.volume import read_volume
from inference import optimum
from inference.optimum import (
    FROM_NETWORK,
    Optimum,
    Refined,
    choose_refinement,
    excess,
    parse_objective,
    refine,
)
from inference.trained import TrainedModel
from losses import build_objective
from losses.objective import OBJECTIVES
from metrics.transfer import Lesion, lesion_transfer
from models import build_model
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
        float(objective(refine(near, mri, pet, objective, steps, FROM_NETWORK), mri, pet)[0])
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
    monkeypatch.setattr(optimum, "BLOCK", 24**3)
    counted = []
    blocks = refine(start, mri, pet, objective, steps=20, progress=counted.append)
    assert sum(counted) == 20 * mri.numel()
    assert len(counted) == 2 * 20
    change = (whole - start).abs().mean()
    assert (blocks - whole).abs().mean() < 1e-4 * change


def test_steps_are_those_of_pytorchs_adam(pair):
    mri, pet = pair
    objective = build_objective("salient-composite")
    start = (0.7 * mri + 0.3 * pet).clamp(0.1, 0.9)
    found = refine(start, mri, pet, objective, 4, FROM_NETWORK)
    expected = start.clone().requires_grad_()
    adam = torch.optim.Adam([expected], betas=(FROM_NETWORK.momentum, 0.999))
    for step in range(4):
        adam.param_groups[0]["lr"] = (
            FROM_NETWORK.rate * (4 / FROM_NETWORK.unhurried) * (4 - step) / 4
        )
        adam.zero_grad()
        (expected.numel() * objective(expected, mri, pet)[0]).backward()
        adam.step()
        with torch.no_grad():
            expected.clamp_(0, 1)
    torch.testing.assert_close(found, expected.detach(), atol=2e-4, rtol=0)
    assert (found - start).abs().max() > 5e-3


def network(refine: int = 0, objective: str | None = "salient-composite:1:1") -> TrainedModel:
    return TrainedModel(
        build_model("average"), "paper", 64, "x", "a test", "a network", objective, refine
    )


def test_a_network_has_its_own_number_of_steps_unless_another_is_asked_for(capsys):
    own = choose_refinement(None, None, network(refine=3))
    assert (own.steps, own.asked_for) == (3, False)
    assert "3 steps of salient-composite:1:1" in capsys.readouterr().out
    assert choose_refinement(5, None, network(refine=3)).steps == 5
    assert choose_refinement(0, None, network(refine=3)) is None
    assert choose_refinement(None, None, network()) is None
    with pytest.raises(InputError, match="a network has no objective"):
        choose_refinement(5, None, network(objective=None))


def test_the_steps_are_of_the_objective_at_the_present_balance(pair):
    mri, pet = pair
    start = (mri + pet) / 2
    refinement = choose_refinement(None, None, network(refine=3))
    for objective in ("salient-composite:1:1", "salient-composite:2:1"):
        expected = refine(start, mri, pet, parse_objective(objective, "x"), 3, FROM_NETWORK)
        found = refinement(network(3, objective), start, mri, pet)
        assert torch.equal(found, expected)
        refined = Refined(build_model("average"), parse_objective(objective, "x"), 3)
        assert torch.equal(refined(mri, pet), expected)


def test_a_volume_thinner_than_a_window_stays_as_it_is_unless_steps_were_asked_for(capsys):
    mri, pet = torch.rand(2, 1, 1, 10, 16, 16, generator=torch.Generator().manual_seed(0))
    fused = (mri + pet) / 2
    own = choose_refinement(None, None, network(refine=3))
    assert torch.equal(own(network(3), fused, mri, pet), fused)
    assert "notice: not refined: SSIM needs every side of at least 11" in capsys.readouterr().err
    with pytest.raises(InputError, match="--refine: SSIM needs"):
        choose_refinement(3, None, network(3))(network(3), fused, mri, pet)


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
