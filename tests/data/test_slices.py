"""Slices for the 2-D methods: the same slices that fusing a volume shows them, drawn without
reading volumes.
"""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.dataset import EpochSampler, PairDataset
from data.settings import NO_CACHE, Cache, Preprocessing, Slicing
from data.slices import SliceDataset
from data.subjects import find_subjects
from models.baselines.slicewise import PLANES, slices_of

SIZE = 24
SMALL, MEMORY = Preprocessing(size=SIZE), Cache("memory")


@pytest.fixture(scope="module")
def cohort(synthetic_cohort):
    return find_subjects(synthetic_cohort).subjects[:2]


@pytest.fixture
def slices(cohort):
    """Function (cache, seed, **slicing) -> data set of the slices of two subjects."""

    def build(cache: Cache = MEMORY, seed: int = 7, **slicing) -> SliceDataset:
        dataset = SliceDataset(cohort, slices_of, Slicing(**slicing), SMALL, cache, seed)
        dataset.prepare("slices", show=False)
        return dataset

    return build


def shown(cohort, plane: str) -> list[torch.Tensor]:
    """(S, 2, H, W) of each subject, from the volumes that the validation fuses; empty slices left
    out.
    """
    stacks = []
    for index in range(len(cohort)):
        item = PairDataset(cohort, SMALL)[0, index]
        stack = torch.cat([slices_of(item[key], plane) for key in ("mri", "pet")], dim=1)
        stacks.append(stack[(stack != 0).flatten(1).any(dim=1)])
    return stacks


@pytest.mark.parametrize("plane", PLANES)
def test_items_are_the_filled_slices_as_fusing_shows_them(cohort, slices, plane):
    expected = shown(cohort, plane)
    dataset = slices(plane=plane)
    assert len(dataset) == sum(map(len, expected)) < 2 * SIZE
    items = [dataset[3, index] for index in range(len(dataset))]
    for item, pair in zip(items, torch.cat(expected), strict=True):
        assert item["mri"].dtype == torch.float32 and item["mri"].shape == (1, SIZE, SIZE)
        assert torch.equal(torch.cat([item["mri"], item["pet"]]), pair)
    names = [subject.name for subject, stack in zip(cohort, expected, strict=True) for _ in stack]
    assert [item["name"] for item in items] == names


def test_pooled_items_are_all_images_of_both_modalities(slices):
    pairs, images = slices(), slices(pooled=True)
    assert len(images) == 2 * len(pairs)
    for index in (0, 5, len(pairs) - 1):
        for offset, key in enumerate(("mri", "pet")):
            item = images[0, 2 * index + offset]
            assert item.keys() == {"image", "name", "index"}
            assert torch.equal(item["image"], pairs[0, index][key])


def test_patches_are_cut_from_both_sources_at_one_place_and_never_empty(slices):
    whole, patches = slices(), slices(patch=8)
    for epoch in range(3):
        for index in range(len(whole)):
            pair, patch = (
                torch.cat([item["mri"], item["pet"]])
                for item in (whole[0, index], patches[epoch, index])
            )
            assert patch.shape == (2, 8, 8) and patch.any()
            places = pair.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4)
            assert (places == patch).flatten(2).all(dim=-1).any()


def test_patches_are_drawn_from_seed_epoch_and_index_alone(slices):
    def drawn(**options) -> list[torch.Tensor]:
        dataset = slices(patch=8, **options)
        return [dataset[epoch, index]["mri"] for epoch in (2, 1) for index in (9, 4, 6)]

    first = drawn()
    assert all(map(torch.equal, first, drawn()))
    assert not all(map(torch.equal, first, drawn(seed=8)))
    assert not all(map(torch.equal, first[:3], first[3:]))


def test_a_patch_larger_than_the_slice_is_the_slice(slices):
    assert torch.equal(slices(patch=100)[0, 3]["mri"], slices()[0, 3]["mri"])


def test_workers_do_not_change_the_batches(slices):
    def loaded(workers: int) -> list[torch.Tensor]:
        dataset = slices(patch=8)
        sampler = EpochSampler(len(dataset), seed=7, shuffle=True)
        return [
            batch["pet"]
            for batch in DataLoader(dataset, batch_size=5, sampler=sampler, num_workers=workers)
        ]

    assert all(map(torch.equal, loaded(0), loaded(2)))


def test_an_item_is_one_slice_read_from_the_cache_on_disk(cohort, slices, tmp_path, monkeypatch):
    dataset = slices(Cache("disk", tmp_path))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and all("-axial" in file.name for file in files)
    kept = np.load(files[0], mmap_mode="r")
    assert kept.shape[1:] == (2, SIZE, SIZE) and kept.flags.c_contiguous

    monkeypatch.setattr(PairDataset, "_read", lambda *_: pytest.fail("a volume was read"))
    again = slices(Cache("disk", tmp_path))
    assert torch.equal(again[0, 5]["mri"], dataset[0, 5]["mri"])
    assert isinstance(again._kept(0), np.memmap)
    with pytest.raises(pytest.fail.Exception, match="a volume was read"):
        slices(Cache("disk", tmp_path), plane="coronal")


def test_the_cache_is_not_changed_by_what_is_done_to_an_item(slices):
    dataset = slices()
    before = dataset[0, 4]["mri"].clone()
    dataset[0, 4]["mri"].zero_()
    assert torch.equal(dataset[0, 4]["mri"], before)


def test_without_a_cache_every_item_would_read_a_volume(cohort):
    with pytest.raises(ValueError, match="disk or memory"):
        SliceDataset(cohort, slices_of, Slicing(), SMALL, NO_CACHE)
