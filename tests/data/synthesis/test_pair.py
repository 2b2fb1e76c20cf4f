"""Synthetic pairs: the same for the same key, different for another, images of one head."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.subjects import find_subjects
from data.synthesis.__main__ import main
from data.synthesis.anatomy import find_anatomies, read_label_maps
from data.synthesis.crop import WHOLE_MM, _draw_voxel_mm, draw_crop
from data.synthesis.dataset import SyntheticPairs
from data.synthesis.mri import draw_contrast
from data.synthesis.pair import _background, draw_pair
from data.synthesis.pet import draw_fwhm, draw_uptake
from data.synthesis.tissues import NUMBERS
from data.volume import read_pair
from utils.errors import InputError

SIZE = 24


@pytest.fixture(scope="module")
def anatomies(label_maps):
    return read_label_maps(label_maps)


def test_a_key_decides_a_pair(anatomies):
    (mri, pet), voxel_mm = draw_pair(anatomies, SIZE, (1, 2, 3))
    (mri_again, pet_again), _ = draw_pair(anatomies, SIZE, (1, 2, 3))
    assert torch.equal(mri, mri_again) and torch.equal(pet, pet_again)
    assert voxel_mm.shape == (3,)
    for other in ((1, 2, 4), (1, 3, 3), (2, 2, 3)):
        assert not torch.equal(mri, draw_pair(anatomies, SIZE, other)[0][0])


def test_many_pairs_are_images_in_range(anatomies):
    filled = 0
    for index in range(40):
        (mri, pet), voxel_mm = draw_pair(anatomies, SIZE, (7, 0, index))
        for image in (mri, pet):
            assert image.shape == (SIZE,) * 3 and image.dtype == torch.float32
            assert image.isfinite().all() and 0 <= image.min() and image.max() <= 1
        assert (voxel_mm >= 0.8).all() and (voxel_mm <= 5).all()
        filled += mri.std() > 0.02 and pet.std() > 0.02
    assert filled > 34  # a crop may miss the head, few do


def test_some_backgrounds_are_grey_and_most_are_black(anatomies):
    """Of images with a flat background, as a mask leaves it."""
    flat = []
    for index in range(100):
        for image in draw_pair(anatomies, SIZE, (11, 0, index))[0]:
            darkest = image.min()
            if 0.2 < (image == darkest).float().mean() < 0.9:
                flat.append(float(darkest))
    grey = [value for value in flat if value > 0]
    assert len(flat) > 20 and 0 < len(grey) < len(flat) / 2
    assert all(0.002 < value < 0.2 for value in grey)


def test_some_grey_backgrounds_are_uneven_and_some_fall_off_at_the_border(anatomies):
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    crop = draw_crop(anatomies[0], SIZE, rng, generator, torch.device("cpu"))
    like = torch.zeros((SIZE,) * 3)
    drawn = [_background(crop, rng, generator, like) for _ in range(60)]
    assert all(0 <= float(one.min()) and 0.1 < float(one.mean()) < 2.5 for one in drawn)
    flat = [float(one.std()) == 0 for one in drawn]
    assert 0.2 < np.mean(flat) < 0.6
    corners = [float(one[0, 0, 0] / one.mean()) for one in drawn]
    assert 0.1 < np.mean(np.array(corners) < 0.4) < 0.6


def test_both_images_are_of_one_anatomy(anatomies):
    """Over many pairs, what is air in one is dark in the other."""
    together = []
    for index in range(30):
        (mri, pet), _ = draw_pair(anatomies, 48, (9, 0, index))
        if mri.std() > 0.05 and pet.std() > 0.05:
            together.append(np.corrcoef(mri.flatten(), pet.flatten())[0, 1])
    assert np.median(together) > 0.4


def test_a_whole_crop_shows_the_whole_head(anatomies):
    anatomy = anatomies[0]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        crop = draw_crop(anatomy, 64, rng, torch.Generator().manual_seed(0), torch.device("cpu"))
        if 64 * crop.voxel_mm.min() >= WHOLE_MM:
            inside = crop.tissues[0] > 0
            volume = float(inside.sum() * np.prod(crop.voxel_mm))
            whole = float((anatomy.tissues > 0).sum() * np.prod(anatomy.voxel_mm))
            assert 0.5 < volume / whole < 1.7  # the scale is 0.85 to 1.15 along each axis
            return
    pytest.fail("no crop of a whole head was drawn")


def test_paint_is_the_mean_of_eight_places(anatomies):
    rng = np.random.default_rng(3)
    crop = draw_crop(anatomies[0], 16, rng, torch.Generator().manual_seed(0), torch.device("cpu"))
    table = np.arange(int(crop.tissues.max()) + 1)
    assert torch.allclose(crop.paint(table), crop.tissues.float().mean(dim=0))


def test_contrasts_and_tracers_vary():
    rng = np.random.default_rng(0)
    white, cortex, csf = (NUMBERS[name] for name in ("white matter", "cortex", "CSF"))
    contrasts = [draw_contrast(rng) for _ in range(300)]
    orders = {tuple(np.argsort([c[white], c[cortex], c[csf]])) for c in contrasts}
    assert len(orders) == 6
    t1_like = np.mean([c[white] > c[cortex] > c[csf] for c in contrasts])
    assert 0.45 < t1_like < 0.75
    uptakes = [draw_uptake(rng) for _ in range(300)]
    fdg_like = np.mean([u[cortex] > 2 * u[white] for u in uptakes])
    assert 0.7 < fdg_like < 0.9
    widths = np.array([draw_fwhm(rng) for _ in range(300)])
    assert widths.min() >= 2.5 and widths.max() <= 13


def test_workers_and_order_change_nothing(anatomies):
    data = SyntheticPairs(anatomies, SIZE, length=3, seed=5)
    keys = [(2, 1), (2, 0), (2, 2)]
    alone = {key: data[key]["pet"] for key in sorted(keys)}
    for workers in (0, 2):
        for batch in DataLoader(data, batch_size=1, sampler=keys, num_workers=workers):
            assert torch.equal(batch["pet"][0], alone[2, int(batch["index"])])


def test_pairs_of_several_sizes_take_turns(anatomies):
    data = SyntheticPairs(anatomies, (16, 24), length=4, seed=5)
    assert [data[0, index]["mri"].shape[-1] for index in range(4)] == [16, 24, 16, 24]
    alone = SyntheticPairs(anatomies, 24, length=4, seed=5)
    assert torch.equal(data[0, 3]["pet"], alone[0, 3]["pet"])


@pytest.mark.parametrize("size", [24, 64, 128, 400])
def test_no_cube_is_much_larger_than_a_head_and_many_show_one(size):
    rng = np.random.default_rng(0)
    voxels = np.array([_draw_voxel_mm(size, rng) for _ in range(400)])
    assert voxels.min() >= min(0.8, 160 / size) and voxels.max() <= 5
    if size >= 64:
        sides = voxels.min(axis=1) * size
        assert sides.max() <= max(256, 0.8 * size) * (1 + 1e-9)
        assert np.mean(sides >= 160) > 0.33


def test_deferred_items_are_drawn_later(anatomies):
    data = SyntheticPairs(anatomies, SIZE, length=3, seed=5)
    expected = data[1, 2]
    data.deferred = True
    item = data[1, 2]
    assert item.keys() == {"name", "index"}
    assert torch.equal(data.finish(item, 1, 2)["mri"], expected["mri"])


def test_labels_need_a_folder(tmp_path):
    with pytest.raises(InputError, match="--labels"):
        find_anatomies("both", None, tmp_path)


def test_the_command_writes_pairs_that_training_reads(label_maps, tmp_path, capsys):
    flags = ["--subjects", "2", "--size", "20", "--labels", str(label_maps)]
    main(["--out", str(tmp_path / "a"), *flags])
    cohort = find_subjects(tmp_path / "a")
    assert [subject.name for subject in cohort.subjects] == ["synthesis-0001", "synthesis-0002"]
    mri, _ = read_pair(cohort.subjects[0].mri, cohort.subjects[0].pet)
    (drawn, _), voxel_mm = draw_pair(read_label_maps(label_maps), 20, (3407, 0, 0))
    np.testing.assert_allclose(mri.array, 1000 * drawn.numpy(), atol=0.51)
    np.testing.assert_allclose(mri.voxel_mm, voxel_mm, rtol=1e-5)
    with pytest.raises(InputError, match="not empty"):
        main(["--out", str(tmp_path / "a"), *flags])
