"""Terms that need VGG-16: plain computations, and files that are none."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from losses import build_slice_objective
from losses.baselines.dilran import perceptual_loss
from losses.baselines.u2fusion import information
from losses.baselines.vgg import Vgg16, load_vgg16
from tests.helpers.images import Blend, slices

CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batch-norm"])
def vgg_state(request) -> tuple[bool, dict[str, torch.Tensor]]:
    """A state dict with torchvision's keys and random values."""
    generator = torch.Generator().manual_seed(1)
    state, number, channels = {"classifier.0.weight": torch.zeros(2, 2)}, 0, 3
    for block in CONVOLUTIONS:
        for width in block:
            values = (
                torch.randn(width, channels, 3, 3, generator=generator)
                * (2 / (9 * channels)) ** 0.5
            )
            state |= {f"features.{number}.weight": values}
            state |= {f"features.{number}.bias": 0.1 * torch.randn(width, generator=generator)}
            if request.param:
                draws = torch.rand(4, width, generator=generator)
                names = ("weight", "bias", "running_mean", "running_var")
                for name, low, draw in zip(names, (0.5, -0.5, -0.5, 0.5), draws, strict=True):
                    state[f"features.{number + 1}.{name}"] = low + draw
            channels, number = width, number + (3 if request.param else 2)
        number += 1
    return request.param, state


def plain_features(
    state: dict[str, torch.Tensor], images: torch.Tensor, blocks: int
) -> list[tuple]:
    """(before, after) the last ReLU of each block, without any module of torch."""
    number, results = 0, []
    for block in CONVOLUTIONS[:blocks]:
        for _ in block:
            before = F.conv2d(
                images,
                state[f"features.{number}.weight"],
                state[f"features.{number}.bias"],
                padding=1,
            )
            if "features.1.running_mean" in state:
                gain, bias, mean, variance = (
                    state[f"features.{number + 1}.{name}"][:, None, None]
                    for name in ("weight", "bias", "running_mean", "running_var")
                )
                before = (before - mean) / (variance + 1e-5).sqrt() * gain + bias
                number += 1
            images, number = before.clamp(min=0), number + 2
        results.append((before, images))
        images, number = images.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5)), number + 1
    return results


def test_vgg_terms_equal_a_plain_computation(vgg_state, tmp_path):
    batch_norm, state = vgg_state
    torch.save(state, tmp_path / "vgg.pth")
    vgg = load_vgg16(tmp_path / "vgg.pth", batch_norm).train()
    assert not any(module.training for module in vgg.modules())
    x, y = slices(2, 32, 32), slices(2, 32, 32, seed=6)
    if batch_norm:
        ours = perceptual_loss(vgg, x, y)
        (_, x1), (_, x2), (x3, _) = plain_features(state, x.repeat(1, 3, 1, 1), 3)
        (_, y1), (_, y2), (y3, _) = plain_features(state, y.repeat(1, 3, 1, 1), 3)
        expected = sum(((a - b) ** 2).mean() for a, b in ((x1, y1), (x2, y2), (x3, y3)))
        assert ours.item() == pytest.approx(expected.item(), rel=1e-4)
        return
    repeated = (
        x.repeat_interleave(7, 2).repeat_interleave(7, 3).repeat(1, 3, 1, 1)
    )  # 32 -> 224, nearest
    repeated = 255 * repeated - torch.tensor([103.939, 116.779, 123.68])[None, :, None, None]
    expected = 0
    for _, maps in plain_features(state, repeated, 5):
        kernel = np.full((1, 1, 3, 3), 1 / 8)
        kernel[0, 0, 1, 1] = -1
        edges = ndimage.correlate(maps.double().numpy(), kernel, mode="constant")
        expected = expected + (edges**2).mean(axis=(1, 2, 3)) / 5
    np.testing.assert_allclose(information(vgg, x).numpy(), expected, rtol=1e-4)


def test_vgg_files_reach_the_losses_and_the_wrong_form_is_refused(vgg_state, tmp_path):
    batch_norm, state = vgg_state
    path = tmp_path / "vgg.pth"
    torch.save(state, path)
    right, wrong = ("dilran", "u2fusion") if batch_norm else ("u2fusion", "dilran")
    mri, pet = slices(1, 16, 16), 0.2 * slices(1, 16, 16, seed=6)
    sources = (mri,) if right == "dilran" else (mri, pet)
    with_vgg = build_slice_objective(right, path)(Blend(), *sources)[1]
    without = build_slice_objective(right)(Blend(), *sources)[1]
    if batch_norm:
        assert with_vgg.keys() - without.keys() == {"perceptual"}
    else:
        assert without["information/mri"] == 0.5 != with_vgg["information/mri"]
        assert with_vgg["information/mri"] + with_vgg["information/pet"] == pytest.approx(1)
    with pytest.raises(ValueError, match="batch normalisation is needed"):
        build_slice_objective(wrong, path)


def test_files_that_are_no_vgg_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ValueError, match="not a state dict"):
        build_slice_objective("dilran", tmp_path / "text.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match="features.0.weight"):
        build_slice_objective("dilran", tmp_path / "linear.pth")
    state = Vgg16().state_dict()
    torch.save(
        {key: value for key, value in state.items() if "28" not in key}, tmp_path / "cut.pth"
    )
    with pytest.raises(ValueError, match="tensors are not those"):
        build_slice_objective("u2fusion", tmp_path / "cut.pth")
    with pytest.raises(FileNotFoundError):
        build_slice_objective("u2fusion", tmp_path / "none.pth")
