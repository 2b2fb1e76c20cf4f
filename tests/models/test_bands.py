"""The head of bands: against scipy's Gaussian filters, as a copy, dark where the sources are."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from models import build_model
from models.bands import (
    SIGMAS,
    WIDE_SIGMAS,
    BandHead,
    blurred_patches,
    energies,
    split_bands,
)
from models.ops.bands import gaussian_kernels

WIDTH = 24


@pytest.fixture
def volumes() -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.rand(2, 2, 1, 12, 16, 20, generator=torch.Generator().manual_seed(4))
    return drawn[0], drawn[1]


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(2, 2, 3, 4, 5, WIDTH, generator=torch.Generator().manual_seed(5))
    return drawn[0], drawn[1]


@pytest.fixture
def trained() -> BandHead:
    """A head that is no copy any more."""
    torch.manual_seed(6)
    head = BandHead(WIDTH)
    torch.nn.init.normal_(head.coefficients[-1].weight, std=0.1)
    torch.nn.init.normal_(head.coefficients[-1].bias, std=0.1)
    return head.eval()


def test_bands_are_differences_of_gaussians(volumes):
    volume = volumes[0][:1].double()
    found = split_bands(volume, gaussian_kernels())[0]
    finer = volume[0, 0].numpy()
    torch.testing.assert_close(found[0].numpy(), finer, atol=0, rtol=0)
    fine, wide = found[1 : 1 + len(SIGMAS)], found[1 + len(SIGMAS) :]
    for band, sigma in zip(fine, SIGMAS, strict=True):
        coarser = ndimage.gaussian_filter(volume[0, 0].numpy(), sigma, mode="nearest", radius=3)
        torch.testing.assert_close(band.numpy(), finer - coarser, atol=1e-7, rtol=0)
        finer = coarser
    shown = finer / (finer + 0.1)  # wide bands fade where the source is dark
    for band, coarse in zip(wide, blurred_patches(volume)[0], strict=True):
        coarser = F.interpolate(coarse[None, None], scale_factor=4, mode="trilinear")[0, 0].numpy()
        torch.testing.assert_close(band.numpy(), (finer - coarser) * shown, atol=1e-7, rtol=0)
        finer = coarser


def test_bands_are_not_computed_in_bfloat16(volumes):
    kernels = gaussian_kernels().float()
    exact = split_bands(volumes[0], kernels)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(split_bands(volumes[0], kernels), exact, atol=0, rtol=0)


def test_wide_bands_are_blurred_means_of_the_patches(volumes):
    volume = volumes[0].double()
    patches = volume.unflatten(4, (5, 4)).unflatten(3, (4, 4)).unflatten(2, (3, 4))
    means = patches.mean((3, 5, 7)).numpy()
    found = blurred_patches(volume)
    for image, blurred in zip(means[:, 0], found, strict=True):
        for sigma, coarse in zip(WIDE_SIGMAS, blurred, strict=True):
            # what lies outside does not count
            counted = [
                ndimage.gaussian_filter(field, sigma, mode="constant", radius=20)
                for field in (image, np.ones_like(image))
            ]
            torch.testing.assert_close(coarse.numpy(), counted[0] / counted[1])


def test_features_of_a_patch_are_its_mean_and_logarithms():
    volume = torch.rand(1, 1, 8, 8, 4, generator=torch.Generator().manual_seed(7)).double()
    split = split_bands(volume, gaussian_kernels())
    found = energies(split)[0, :, 1, 0, 0]
    patch = split[0, :, 4:, :4].numpy()
    mean = patch[0].mean()
    levels = [*(abs(band).mean() for band in patch[1:]), mean]
    expected = [mean, *(1 + math.log(level + 0.003) / 3 for level in levels)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_starts_as_a_copy_by_shares(tokens, volumes):
    head = BandHead(WIDTH)
    mri, pet = volumes
    torch.testing.assert_close(head(tokens, volumes), torch.cat((mri, pet), dim=1))
    shares = torch.tensor([0.25, 0.5]), torch.tensor([0.75, 0.5])
    maps = head(tokens, volumes, shares)
    torch.testing.assert_close(maps[0], torch.cat((0.5 * mri[0], 1.5 * pet[0])))
    torch.testing.assert_close(maps[1], torch.cat((mri[1], pet[1])))


def test_a_map_is_dark_where_its_source_is(trained, tokens, volumes):
    mri, pet = volumes
    mri = mri.clone()
    mri[..., 8:] = 0
    maps = trained(tokens, (mri, pet))
    assert (maps[:, 0, ..., 11:] == 0).all()  # bands reach three voxels
    assert (maps[:, 0, ..., :8] != 0).any() and (maps[:, 1, ..., 11:] != 0).any()


def test_both_streams_are_treated_alike(trained, tokens, volumes):
    shares = torch.tensor([0.3, 0.6]), torch.tensor([0.7, 0.4])
    maps = trained(tokens, volumes, shares)
    swapped = trained(tokens[::-1], volumes[::-1], shares[::-1])
    torch.testing.assert_close(swapped, maps.flip(1))


def test_a_sample_does_not_depend_on_its_batch(trained, tokens, volumes):
    whole = trained(tokens, volumes)
    alone = trained(tuple(t[1:] for t in tokens), tuple(v[1:] for v in volumes))
    torch.testing.assert_close(alone, whole[1:])


@pytest.mark.parametrize("balanced", [False, True])
def test_a_network_of_bands_takes_any_size_and_stays_within_bounds(balanced):
    torch.manual_seed(1)
    options = {"embed_dim": WIDTH, "depths": (1, 1), "head": "bands", "fusion": "addition"}
    network = build_model("dc2fusion", **options, balanced=balanced)
    mri, pet = torch.rand(2, 1, 1, 17, 20, 23).unbind()
    fused = network(mri, pet)
    assert fused.shape == mri.shape and 0 <= fused.min() and fused.max() <= 1
    raw = network.fuse_maps(*network.stream_maps(mri, pet).split(1, dim=1))
    assert raw.max() > 1  # so that the bound was needed


def test_every_parameter_learns():
    torch.manual_seed(2)
    network = build_model("dc2fusion", embed_dim=WIDTH, depths=(1,), head="bands", balanced=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    mri, pet = torch.rand(2, 1, 1, 16, 16, 16).unbind()
    for _ in range(4):
        optimizer.zero_grad()
        network(mri, pet, 0.4).sub(mri).square().mean().backward()
        optimizer.step()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="unknown head 'feet', choose from patches, bands"):
        build_model("dc2fusion", embed_dim=WIDTH, head="feet")
