"""The training data set: caching that notices changes, and randomness that repeats."""

import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.dataset import EpochSampler, ErrorsAsItems, PairDataset, collate
from data.settings import Cache, Preprocessing
from data.subjects import find_subjects
from utils.errors import InputError


@pytest.fixture
def cohort(synthetic_cohort, tmp_path):
    """A copy that a test may change."""
    return find_subjects(shutil.copytree(synthetic_cohort, tmp_path / "data")).subjects


SMALL = Preprocessing(size=36)


def cached(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npy"))


@pytest.mark.parametrize("cache", ["disk", "memory", "none"])
def test_items_are_unit_range_volumes_whatever_the_cache(cohort, tmp_path, cache):
    dataset = PairDataset(cohort, SMALL, Cache(cache, tmp_path / "cache"))
    dataset.prepare("pairs", show=False)
    reference = PairDataset(cohort, SMALL)
    for index, subject in enumerate(cohort):
        item = dataset[0, index]
        assert item["name"] == subject.name
        for key in ("mri", "pet"):
            assert type(item[key]) is torch.Tensor
            assert item[key].shape == (1, 36, 36, 36) and item[key].dtype == torch.float32
            assert item[key].min() == 0 and item[key].max() == 1
            assert torch.equal(item[key], reference[0, index][key])


def test_cached_pairs_are_not_changed_by_augmentation(cohort, tmp_path):
    dataset = PairDataset(cohort, SMALL, Cache("memory"), augment=True)
    dataset.prepare("pairs", show=False)
    first = dataset[0, 0]["mri"].clone()
    for epoch in range(4):
        dataset[epoch, 0]
    assert torch.equal(dataset[0, 0]["mri"], first)


def test_finishing_later_gives_the_same_pair(cohort):
    now, later = (PairDataset(cohort, SMALL, Cache("memory"), augment=True) for _ in range(2))
    later.deferred = True
    changed = 0
    for epoch in range(6):
        raw = later[epoch, 1]
        finished = later.finish({key: raw[key] for key in ("mri", "pet")}, epoch, 1)
        expected = now[epoch, 1]
        assert raw["name"] == expected["name"] and raw["index"] == 1
        for key in ("mri", "pet"):
            assert torch.equal(finished[key], expected[key])
        changed += not torch.equal(
            finished["mri"], now.rescale({"mri": raw["mri"], "pet": raw["pet"]})["mri"]
        )
    assert changed, "nothing was augmented in six epochs"


def test_disk_cache_notices_changed_files_and_parameters(cohort, tmp_path):
    folder = tmp_path / "cache"

    def prepare(preprocessing: Preprocessing = SMALL):
        return PairDataset(cohort[:1], preprocessing, Cache("disk", folder))[0, 0]["mri"]

    before = prepare()
    assert len(cached(folder)) == 1
    prepare()
    assert len(cached(folder)) == 1
    assert prepare(Preprocessing(size=40)).shape[-1] == 40
    prepare(Preprocessing("released", 36))
    assert len(cached(folder)) == 3

    image = nib.load(cohort[0].mri)
    data = np.asarray(image.dataobj)[::-1].copy()
    nib.save(nib.Nifti1Image(data, image.affine, image.header), cohort[0].mri)
    os.utime(cohort[0].mri, ns=(1, 1))
    assert not torch.equal(prepare(), before)
    assert len(cached(folder)) == 4


def test_disk_cache_is_used(cohort, tmp_path):
    folder = tmp_path / "cache"
    options = SMALL, Cache("disk", folder)
    PairDataset(cohort[:1], *options).prepare("pairs", show=False)
    marked = np.zeros((2, 36, 36, 36), np.float32)
    marked[:, 0, 0, 0] = 1
    np.save(folder / cached(folder)[0], marked)
    assert PairDataset(cohort[:1], *options)[0, 0]["mri"].sum() == 1


def test_disk_cache_follows_the_subjects_when_their_order_changes(cohort, tmp_path):
    options = SMALL, Cache("disk", tmp_path / "cache")
    before = PairDataset(cohort, *options)
    expected = {before[0, index]["name"]: before[0, index]["mri"] for index in range(len(cohort))}
    after = PairDataset(cohort[::-1], *options)
    for index, subject in enumerate(cohort[::-1]):
        assert after[0, index]["name"] == subject.name
        assert torch.equal(after[0, index]["mri"], expected[subject.name])
    assert len(cached(tmp_path / "cache")) == len(cohort)  # none was prepared twice


def test_a_damaged_cache_file_is_made_again(cohort, tmp_path):
    folder = tmp_path / "cache"
    options = SMALL, Cache("disk", folder)
    before = PairDataset(cohort[:1], *options)[0, 0]["mri"]
    file = folder / cached(folder)[0]
    file.write_bytes(file.read_bytes()[:5000])
    assert torch.equal(PairDataset(cohort[:1], *options)[0, 0]["mri"], before)
    assert torch.equal(PairDataset(cohort[:1], *options)[0, 0]["mri"], before)


@pytest.mark.parametrize(
    "other", [np.zeros((2, 8, 8, 8), "f4"), np.zeros((2, 36, 36, 36), "f8"), np.zeros(3, "f4")]
)
def test_a_cache_file_of_another_shape_is_made_again(cohort, tmp_path, other):
    folder = tmp_path / "cache"
    expected = PairDataset(cohort[:1], SMALL, Cache("disk", folder))[0, 0]["mri"]
    np.save(folder / cached(folder)[0], other)
    item = PairDataset(cohort[:1], SMALL, Cache("disk", folder))[0, 0]
    assert torch.equal(item["mri"], expected)


def test_a_file_that_others_have_mapped_is_not_written_into(cohort, tmp_path):
    folder = tmp_path / "cache"
    PairDataset(cohort[:1], SMALL, Cache("disk", folder))[0, 0]
    path = folder / cached(folder)[0]
    np.save(path, np.zeros((2, 8, 8, 8), "f4"))
    mapped = np.load(path, mmap_mode="r")
    PairDataset(cohort[:1], SMALL, Cache("disk", folder))[0, 0]
    assert np.load(path).shape == (2, 36, 36, 36)
    assert mapped.shape == (2, 8, 8, 8) and not mapped.any()


def test_augmentation_does_not_depend_on_the_place_in_the_list(cohort):
    forwards, backwards = (
        PairDataset(order, SMALL, augment=True) for order in (cohort, cohort[::-1])
    )
    for epoch in range(3):
        assert torch.equal(forwards[epoch, 0]["mri"], backwards[epoch, len(cohort) - 1]["mri"])


def loaded(cohort, workers: int, epochs: int = 2) -> dict:
    dataset = PairDataset(cohort, SMALL, augment=True, seed=7)
    sampler = EpochSampler(len(dataset), seed=7, shuffle=True)
    loader = DataLoader(
        dataset, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    batches = {}
    for epoch in range(epochs):
        sampler.epoch = epoch
        batches |= {
            (epoch, place, b["name"][0]): b["mri"].sum().item() for place, b in enumerate(loader)
        }
    return batches


def test_order_and_augmentation_do_not_depend_on_workers(cohort):
    alone = loaded(cohort, workers=0)
    assert loaded(cohort, workers=2) == alone


def test_augmentation_differs_between_epochs_and_subjects(cohort):
    dataset = PairDataset(cohort, SMALL, augment=True, seed=7)
    sums = {dataset[epoch, index]["mri"].sum().item() for epoch in range(6) for index in (0, 1)}
    assert len(sums) > 6


def test_a_single_bad_file_is_the_error_and_several_are_all_named(cohort, capsys):
    cohort[0].pet.write_bytes(b"no image")
    dataset = PairDataset(cohort, SMALL)
    with pytest.raises(InputError, match=cohort[0].pet.name):
        dataset.prepare("pairs", show=False)
    cohort[2].mri.write_bytes(b"no image")
    with pytest.raises(InputError, match="2 subjects"):
        dataset.prepare("pairs", show=False)
    notices = capsys.readouterr().err
    assert cohort[0].pet.name in notices and cohort[2].mri.name in notices


class TestEpochSampler:
    def test_order_follows_seed_and_epoch(self):
        def order(seed, epoch):
            sampler = EpochSampler(20, seed, shuffle=True)
            sampler.epoch = epoch
            return list(sampler)

        assert order(1, 0) == order(1, 0)
        assert [i for _, i in order(1, 0)] != [i for _, i in order(1, 1)]
        assert [i for _, i in order(1, 0)] != [i for _, i in order(2, 0)]
        assert sorted(order(1, 3)) == [(3, i) for i in range(20)]

    def test_processes_share_all_items_in_equal_numbers(self):
        shares = [list(EpochSampler(7, 1, shuffle=True, rank=r, world_size=3)) for r in range(3)]
        assert {len(share) for share in shares} == {3}
        assert {i for share in shares for _, i in share} == set(range(7))


class OneUnreadable(Dataset):
    """Its second item cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict:
        if index == 1:
            raise InputError("a.nii", "no such file", "check the path", kind="output")
        return {"index": index}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_whole_out_of_a_loading_process(workers):
    loader = DataLoader(ErrorsAsItems(OneUnreadable()), num_workers=workers, collate_fn=collate)
    first, error, last = loader
    assert (first["index"].item(), last["index"].item()) == (0, 2)
    assert type(error) is InputError and error.kind == "output"
    assert str(error) == "a.nii: no such file; check the path"
