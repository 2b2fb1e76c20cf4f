"""The 2-D methods' losses: golden values, and plain computations where VGG-16 has a part."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from losses import build_slice_objective
from losses.baselines.dilran import perceptual_loss, sobel_loss
from losses.baselines.matr import matr_loss, region_information
from losses.baselines.ssim2d import slice_ssim
from losses.baselines.swinfuse import combine_scales, msssim, msssim_scales, swinfuse_loss
from losses.baselines.u2fusion import feature_gradient, information
from losses.baselines.vgg import Vgg16, load_vgg16
from tests.helpers.golden import golden_tensors

NAMES = ("swinfuse", "u2fusion", "dilran", "matr")


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return golden_tensors("baselines/losses.npz")


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PET, MRI and their average, (1, 1, 256, 256)."""
    arrays = golden_tensors("baselines/swinfuse_pipeline256_ruleB.npz")
    pet, mri = (arrays[key][None, None] for key in ("in_pet", "in_mri"))
    return pet, mri, (pet + mri) / 2


def matches(ours: torch.Tensor, golden: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.tolist() == pytest.approx(golden.tolist(), rel=tolerance)


class TestGolden:
    def test_msssim(self, expected, pictures):
        pet, mri, _ = pictures
        ssim, contrast = msssim_scales(2 * pet - 1, 2 * mri - 1)
        # The reference's float32 variances leave 1.3e-5 at the second scale; ours are 4e-6 from
        # float64 throughout.
        matches(ssim, expected["swinfuse_msssim_ssim_per_scale"], 2e-5)
        matches(contrast, expected["swinfuse_msssim_cs_per_scale"], 2e-5)
        matches(msssim(2 * pet - 1, 2 * mri - 1), expected["swinfuse_msssim_norm"])
        matches(combine_scales(*msssim_scales(pet, mri)), expected["swinfuse_msssim_nonorm01"])

    def test_swinfuse(self, expected, pictures):
        pet, mri = (2 * picture - 1 for picture in pictures[:2])
        outputs = torch.cat(
            [v[..., part, part] for part in (slice(0, 224), slice(32, 256)) for v in (pet, mri)]
        )
        total, terms = swinfuse_loss(outputs, outputs[[1, 0, 3, 2]])
        matches(terms["l1"], expected["swinfuse_train_pixel"])
        matches(terms["msssim"], expected["swinfuse_train_ssim"])
        matches(total, expected["swinfuse_train_total"], 1e-4)

    def test_matr(self, expected, pictures):
        pet, mri, fused = pictures
        total, terms = matr_loss(fused, mri, pet)
        for source in ("mri", "pet"):
            matches(terms[f"ssim/{source}"], expected[f"matr_ssim_f_{source}"])
            matches(terms[f"rmi/{source}"], expected[f"matr_rmi_f_{source}"])
        matches(region_information(torch.sigmoid(fused), pet), expected["matr_rmi_part_f_pet"])
        matches(
            2 * terms["rmi/pet"] - expected["matr_rmi_part_f_pet"], expected["matr_bce_part_f_pet"]
        )
        matches(total, expected["matr_total"])

    def test_dilran(self, expected, pictures):
        pet, _, fused = pictures
        method = FixedOutput(fused)
        total, terms = build_slice_objective("dilran")(method, pet)
        matches(terms["mse"], expected["dilran_mse"])
        matches(terms["sobel"], expected["dilran_sobel"])
        matches(total, expected["dilran_mse"] + 0.2 * expected["dilran_sobel"])

    def test_u2fusion(self, expected, pictures):
        pet, mri, fused = pictures
        total, terms = build_slice_objective("u2fusion").eval()(FixedOutput(fused), mri, pet)
        for source in ("mri", "pet"):
            matches(1 - terms[f"ssim/{source}"], expected[f"u2_ssim_f_{source}"])
            matches(terms[f"mse/{source}"], expected[f"u2_fro_f_{source}"])
        parts = [
            1 - expected[f"u2_ssim_f_{s}"] + 20 * expected[f"u2_fro_f_{s}"] for s in ("mri", "pet")
        ]
        matches(total, sum(parts) / 2)

    def test_feature_gradient(self, expected):
        features = golden_tensors("baselines/swinfuse_ruleA.npz")["enc_pet"][None, :8]
        matches(feature_gradient(features)[0], expected["u2_featgrad_mean_sq"])


class FixedOutput(nn.Module):
    """A method whose result is given."""

    multiple = 2

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        return self.output

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        return self.output


class Blend(nn.Module):
    """A method with one weight; slices must be multiples of 4."""

    multiple = 4

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.7))

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        return self.share * mri + (1 - self.share) * pet

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[-2] % 4 == image.shape[-1] % 4 == 0
        return self.share * image


def slices(*shape: int, seed: int = 5) -> torch.Tensor:
    noise = np.random.default_rng(seed).uniform(size=(*shape[:1], 1, *shape[1:]))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 1, 1))).float()


def inputs_of(name: str, mri: torch.Tensor, pet: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (mri,) if name in ("swinfuse", "dilran") else (mri, pet)


@pytest.mark.parametrize("name", NAMES)
def test_totals_have_a_gradient_and_terms_are_scalars(name):
    method = Blend()
    images = inputs_of(name, slices(3, 34, 37), slices(3, 34, 37, seed=6))
    total, terms = build_slice_objective(name)(method, *images)
    total.backward()
    assert method.share.grad.abs() > 0
    assert total.dtype == torch.float32
    assert all(term.shape == () and not term.requires_grad for term in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_losses_do_not_lose_accuracy_under_bfloat16_autocast(name):
    images = inputs_of(name, slices(2, 24, 24), slices(2, 24, 24, seed=6))
    objective = build_slice_objective(name).eval()
    exact = objective(Blend(), *images)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert objective(Blend(), *images)[0].item() == pytest.approx(exact.item(), rel=1e-6)


def test_u2fusion_weighs_each_pair_by_its_own_error():
    """Released: mean of the weights times mean of the errors."""
    objective = build_slice_objective("u2fusion").eval()
    mri, pet = slices(2, 16, 16), slices(2, 16, 16, seed=6)
    objective._mri_share = lambda mri, pet: torch.tensor([0.9, 0.2])
    total, _ = objective(Blend(), mri, pet)
    expected = 0
    for i, share in enumerate((0.9, 0.2)):
        one = slice(i, i + 1)
        fused = Blend()(mri[one], pet[one])
        for weight, source in ((share, mri[one]), (1 - share, pet[one])):
            part = 1 - slice_ssim(fused, source)[0] + 20 * F.mse_loss(fused, source)
            expected += weight * part.item() / 2
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_u2fusion_swaps_the_sources_of_half_of_the_batches_when_training():
    class Recorder(Blend):
        def forward(self, mri, pet):
            self.first = mri
            return super().forward(mri, pet)

    torch.manual_seed(0)
    objective, method, mri, pet = (
        build_slice_objective("u2fusion"),
        Recorder(),
        slices(1, 16, 16),
        slices(1, 16, 16),
    )
    swapped = 0
    for _ in range(40):
        objective(method, mri, pet)
        swapped += method.first is pet
    assert 10 < swapped < 30
    objective.eval()(method, mri, pet)
    assert method.first is mri


def test_a_source_that_is_not_finite_gives_a_loss_that_says_so():
    """The determinant of the region information must not stop with an error of its own."""
    mri = slices(1, 24, 24)
    assert not matr_loss(mri * torch.nan, mri, mri)[0].isfinite()


def test_msssim_of_identical_slices_is_one_and_small_ones_are_refused():
    image = 2 * slices(2, 21, 35) - 1
    assert msssim(image, image).item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="at least 16 pixels, received \\(14, 21\\)"):
        msssim(image[..., :14, :21], image[..., :14, :21])


def test_sobel_equals_scipy():
    output, target = slices(1, 20, 17), slices(1, 20, 17, seed=6)
    expected = 0
    for axis in (0, 1):
        edges = [
            abs(ndimage.sobel(v[0, 0].double().numpy(), axis)[1:-1, 1:-1]) for v in (output, target)
        ]
        expected += ((edges[0] - edges[1]) ** 2).mean()
    assert sobel_loss(output, target).item() == pytest.approx(expected, rel=1e-5)


# VGG-16 ------------------------------------------------------------------------------------------

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
    with_vgg = build_slice_objective(right, path)(Blend(), *inputs_of(right, mri, pet))[1]
    without = build_slice_objective(right)(Blend(), *inputs_of(right, mri, pet))[1]
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


def test_unknown_names_and_files_without_use_are_refused():
    with pytest.raises(ValueError, match="dice.*swinfuse.*matr"):
        build_slice_objective("dice")
    with pytest.raises(ValueError, match="matr is trained without"):
        build_slice_objective("matr", "vgg.pth")
