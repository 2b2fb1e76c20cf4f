"""Validation: what is scored, shown and counted, without a trainer."""

import math

import pytest
import torch

from data.dataset import PairDataset
from data.settings import Cache, Preprocessing
from data.subjects import find_subjects
from metrics import score
from models import build_model
from training.validation import BEST_BY, METRICS, NETWORK, PICTURED_SUBJECTS, summarise, validate

CPU = torch.device("cpu")


@pytest.fixture
def pairs(synthetic_cohort):
    return PairDataset(
        find_subjects(synthetic_cohort).subjects, Preprocessing(size=24), Cache("memory")
    )


def average(mri, pet):
    return (mri + pet) / 2


def test_scores_are_those_of_whole_volumes(pairs):
    found = validate(average, pairs, [1], CPU, "ssim-min", {"copy-mri": build_model("copy-mri")})
    item = pairs[0, 1]
    mri, pet = item["mri"][0], item["pet"][0]
    rows = dict(found.rows)
    assert list(rows) == [NETWORK, "copy-mri"]
    expected = score(average(mri, pet), mri, pet, names=METRICS)
    for name in ("psnr_mri", "psnr_pet", "ssim_mri", "ssim_pet", "nmi_mri", "nmi_pet"):
        assert rows[NETWORK][name] == pytest.approx(expected[name], rel=1e-6)
    assert rows["copy-mri"]["ssim_mri"] == pytest.approx(1)


def test_only_the_asked_for_are_scored_and_only_the_first_are_shown(pairs):
    found = validate(average, pairs, range(len(pairs)), CPU, "ssim-min", {})
    assert len(found.rows) == len(pairs) == 3
    shown = [example.subject for example in found.examples]
    assert shown == [subject.name for subject in pairs.subjects[:PICTURED_SUBJECTS]]
    first, item = found.examples[0], pairs[0, 0]
    assert (first.mri == item["mri"][0].numpy()).all()
    assert (first.fused == average(item["mri"], item["pet"])[0].numpy()).all()
    assert not validate(average, pairs, [2], CPU, "ssim-min", {}).examples


def test_a_volume_that_is_not_finite_ends_it_and_is_named(pairs):
    calls = []

    def diverging(mri, pet):
        calls.append(1)
        return mri / (0 if len(calls) == 2 else 1)

    found = validate(diverging, pairs, range(3), CPU, "ssim-min", {})
    assert found.not_finite == pairs.subjects[1].name
    assert len(calls) == 2 and len(found.rows) == 1


def test_validation_records_no_gradients_and_draws_nothing(pairs):
    weight = torch.ones((), requires_grad=True)
    seen = []

    def fuse(mri, pet):
        seen.append(weight * mri)
        return seen[-1]

    before = torch.get_rng_state()
    validate(fuse, pairs, [0], CPU, "ssim-min", {})
    assert not seen[0].requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_best_by_the_smaller_ssim_is_not_won_by_a_copy(pairs):
    copy, mean = build_model("copy-mri"), average
    best = {}
    for name, fuse in {"copy": copy, "average": mean}.items():
        scores = summarise(validate(fuse, pairs, range(3), CPU, "ssim-min", {}).rows)[NETWORK]
        best[name] = BEST_BY["ssim-min"](scores)
    assert best["average"] > best["copy"]


class TestSummary:
    def test_mean_population_deviation_and_number_of_each_method(self):
        rows = [("a", {"ssim": 1.0}), ("b", {"ssim": 5.0}), ("a", {"ssim": 3.0})]
        assert summarise(rows) == {"a": {"ssim": (2.0, 1.0, 2)}, "b": {"ssim": (5.0, 0.0, 1)}}

    def test_nan_does_not_count(self):
        rows = [("a", {"vif": math.nan}), ("a", {"vif": 4.0})]
        assert summarise(rows)["a"]["vif"] == (4.0, 0.0, 1)
        mean, sd, subjects = summarise(rows[:1])["a"]["vif"]
        assert math.isnan(mean) and math.isnan(sd) and subjects == 0

    def test_an_infinite_score_has_no_deviation(self):
        mean, sd, subjects = summarise([("a", {"psnr": math.inf}), ("a", {"psnr": 9.0})])["a"][
            "psnr"
        ]
        assert mean == math.inf and math.isnan(sd) and subjects == 2
