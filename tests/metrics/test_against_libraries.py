"""The metrics that have an independent implementation, against it, in 2-D and 3-D."""

import numpy as np
import pytest
import torch
from monai.metrics import PSNRMetric, SSIMMetric
from scipy.ndimage import gaussian_filter
from scipy.stats import entropy as scipy_entropy
from scipy.stats import pearsonr

from metrics import correlation, fmi, information, psnr, reference_free, ssim
from metrics.images import gaussian

skimage_metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")

SHAPES = [(41, 52), (23, 17, 30)]


def smooth_pair(shape, seed=0):
    """Two related images in [0, 1], smooth enough that windows differ in mean and in structure."""
    generator = np.random.default_rng(seed)
    base = gaussian_filter(generator.random(shape), 2)
    base = (base - base.min()) / (base.max() - base.min())
    other = np.clip(0.7 * base + 0.2 + 0.1 * generator.standard_normal(shape), 0, 1)
    return base, other


def batch(image):
    return torch.from_numpy(np.ascontiguousarray(image))[None]


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_is_scikit_image_with_the_gaussian_window(shape):
    fused, source = smooth_pair(shape)
    expected, full = skimage_metrics.structural_similarity(
        fused,
        source,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert float(ssim.ssim(batch(fused), batch(source))) == pytest.approx(expected, abs=1e-12)

    mask = fused > 0.5
    inner = tuple(slice(5, size - 5) for size in shape)
    expected = full[inner][mask[inner]].mean()
    assert float(ssim.ssim(batch(fused), batch(source), batch(mask))) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_and_psnr_are_monai(shape):
    fused, source = (batch(image)[None].float() for image in smooth_pair(shape))
    expected = SSIMMetric(spatial_dims=len(shape), data_range=1.0)(fused, source)
    assert float(ssim.ssim(fused[0].double(), source[0].double())) == pytest.approx(
        float(expected), abs=2e-5
    )
    expected = PSNRMetric(max_val=1.0)(fused, source)
    assert float(psnr.psnr(fused[0].double(), source[0].double())) == pytest.approx(
        float(expected), abs=2e-5
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_is_scikit_image(shape):
    fused, source = smooth_pair(shape)
    expected = skimage_metrics.peak_signal_noise_ratio(source, fused, data_range=1.0)
    assert float(psnr.psnr(batch(fused), batch(source))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [None, 100, 255])
def test_nmi_is_scikit_image_also_where_values_sit_on_bin_edges(shape, levels):
    fused, source = smooth_pair(shape)
    if levels:
        fused, source = (np.round(image * levels) / levels for image in (fused, source))
    expected = skimage_metrics.normalized_mutual_information(fused, source, bins=100)
    assert float(information.nmi(batch(fused), batch(source))) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_mi_is_that_of_numpys_histogram(shape):
    fused, source = smooth_pair(shape)
    joint = np.histogram2d(fused.ravel(), source.ravel(), bins=10)[0]
    expected = (
        scipy_entropy(joint.sum(0)) + scipy_entropy(joint.sum(1)) - scipy_entropy(joint.ravel())
    )
    assert float(information.mi(batch(fused), batch(source))) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_correlations_are_pearsons(shape):
    mri, pet = smooth_pair(shape)
    fused = np.maximum(mri, pet)
    assert float(correlation.cc(batch(fused), batch(mri))) == pytest.approx(
        pearsonr(fused.ravel(), mri.ravel())[0]
    )
    expected = (
        pearsonr((fused - pet).ravel(), mri.ravel())[0]
        + pearsonr((fused - mri).ravel(), pet.ravel())[0]
    )
    assert float(correlation.scd(batch(fused), batch(mri), batch(pet))) == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_metrics_without_reference_are_numpy(shape):
    image = smooth_pair(shape)[0] * 255
    axes = range(len(shape))
    squares = [np.mean(np.diff(image, axis=axis) ** 2) for axis in axes]
    gradients = np.stack(np.gradient(image))
    assert float(reference_free.standard_deviation(batch(image))) == pytest.approx(image.std())
    assert float(reference_free.spatial_frequency(batch(image))) == pytest.approx(
        np.sqrt(sum(squares))
    )
    expected = np.sqrt((gradients**2).mean(0)).mean()
    assert float(reference_free.average_gradient(batch(image))) == pytest.approx(expected)


def test_gaussian_window_is_the_one_of_scipy():
    impulse = np.zeros(11)
    impulse[5] = 1
    np.testing.assert_allclose(
        gaussian(11, 1.5), gaussian_filter(impulse, 1.5, radius=5), atol=1e-15
    )


def fmi_by_loops(fused, source):
    """The fast FMI as its authors wrote it: one window at a time, the full 9 x 9 joint table."""

    def distribution(window):
        low, high = window.min(), window.max()
        p = np.ones(9) if low == high else (window - low) / (high - low)
        return p / p.sum()

    def entropy(p):
        p = p[p != 0]
        return -(p * np.log2(np.abs(p))).sum()

    def spread(p):
        index = np.arange(1, 10)
        return np.sqrt(max((index**2 * p).sum() - (index * p).sum() ** 2, 0))

    scores = []
    for row in range(fused.shape[0] - 2):
        for column in range(fused.shape[1] - 2):
            f, s = (
                image[row : row + 3, column : column + 3].T.ravel() for image in (fused, source)
            )
            if (f == s).all():
                scores.append(1.0)
                continue
            p, q = distribution(f), distribution(s)
            length = np.linalg.norm(p - p.mean()) * np.linalg.norm(q - q.mean())
            c = ((p - p.mean()) * (q - q.mean())).sum() / length if length > 1e-12 else 0.0
            cp, cq = np.cumsum(p)[:, None], np.cumsum(q)
            bound = np.minimum(cp, cq) if c >= 0 else np.maximum(cp + cq - 1, 0)
            difference = np.diff(np.diff(np.pad(bound, ((1, 0), (1, 0))), axis=0), axis=1)
            product = c * spread(p) * spread(q)
            w = product / (bound - cp * cq).sum() if product else 0.0
            joint = w * difference + (1 - w) * np.outer(p, q)
            total = entropy(p) + entropy(q)
            information = total - entropy(joint.ravel())
            scores.append(2 * information / total if total and abs(information) > 1e-15 else 0.0)
    return np.mean(scores)


@pytest.mark.parametrize("feature", ["pixel", "gradient", "edge"])
def test_fmi_is_the_loop_over_full_joint_tables(feature):
    mri, pet = smooth_pair((20, 26))
    fused = np.where(mri > 0.5, mri, 1 - pet)  # equal windows, positive and negative correlation
    fused[:6] = 0.3  # flat ones
    images = {
        "pixel": lambda image: image,
        "gradient": lambda image: np.gradient(image, axis=1),
        "edge": lambda image: fmi.sobel_edges(batch(image))[0].double().numpy(),
    }[feature]
    expected = fmi_by_loops(images(fused), images(mri))
    assert float(fmi.fmi(batch(fused), batch(mri), feature=feature)) == pytest.approx(
        expected, abs=1e-9
    )
