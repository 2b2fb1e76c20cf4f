"""FSIM: phase congruency and gradients compared, in the released and in the standard form.

The filter bank's responses and their congruency are float32, which takes 35 % less time; the
spectrum before them, which holds the mean, and the comparison after them are float64. A slice's
FSIM changes by less than 3e-7 by it, that of a volume by 1e-8 (real pairs at 64^3).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from .images import is_constant, masked_sum, undefined_where

SCALES = 4
SHORTEST_WAVE = 6.0  # pixels, doubled from scale to scale
NOISE_SIGMAS = 2.0  # k of Kovesi's noise threshold
T1, T2 = 0.85, 160.0
CHUNK = 4  # slices whose complex filter responses are held at once on a CPU


@dataclass(frozen=True)
class Form:
    """Where the two forms differ before the common formula."""

    orientations: int
    sigma_on_f: float
    grey_levels: float  # factor on the [0, 1] image
    epsilon: float  # added to the length of the mean phase vector


RELEASED = Form(orientations=6, sigma_on_f=0.5978, grey_levels=1.0, epsilon=1e-4)
STANDARD = Form(orientations=4, sigma_on_f=0.55, grey_levels=255.0, epsilon=2**-52)


class Features(NamedTuple):
    """Phase congruency and gradient magnitude of every pixel, and whether an image is constant."""

    congruency: Tensor  # (B, H, W)
    gradient: Tensor  # same
    constant: Tensor  # (B,) boolean


def fsim(
    fused: Tensor, source: Tensor, mask: Tensor | None = None, form: Form = RELEASED
) -> Tensor:
    """FSIM = sum(S_pc S_g P) / sum(P), P = max(P_F, P_A), over pixels (of the mask); (B,), 2-D.

    S_pc = (2 P_F P_A + 0.85) / (P_F^2 + P_A^2 + 0.85) and S_g the same of the gradients with 160.
    Images are (B, H, W) in [0, 1]. Range 0 to 1, higher is better, 1 for identical images; NaN
    where an image is constant. Insensitive: unrelated noise scores 0.77 (standard) or 0.89
    (released). L. Zhang, L. Zhang, Mou, D. Zhang, IEEE TIP 20(8), 2011; phase congruency: Kovesi,
    Videre 1(3), 1999.

    `STANDARD` is the form of the paper. `RELEASED` is what the released code computes: phase
    congruency summed over six orientations, and Scharr slopes rounded to unsigned integers although
    the image is in [0, 1], which loses weak and all falling edges.
    """
    return fsim_from(features(fused, form), features(source, form), mask)


def fsim_from(fused: Features, source: Features, mask: Tensor | None = None) -> Tensor:
    """`fsim` of two images whose features are known."""
    if mask is not None and mask.shape != fused.congruency.shape:
        mask = avg_pool2d(mask.double(), _pooling(mask)) >= 0.5
    weight = torch.maximum(fused.congruency, source.congruency)
    alike = _similarity(fused.congruency, source.congruency, T1)
    alike = alike * _similarity(fused.gradient, source.gradient, T2)
    value = masked_sum(alike * weight, mask) / masked_sum(weight, mask)
    return undefined_where(fused.constant | source.constant, value)


def _similarity(first: Tensor, second: Tensor, constant: float) -> Tensor:
    return (2 * first * second + constant) / (first**2 + second**2 + constant)


def features(image: Tensor, form: Form = RELEASED) -> Features:
    """What FSIM needs to know of one image, (B, H, W) in [0, 1]."""
    constant = is_constant(image)
    scaled = image * form.grey_levels
    if form == RELEASED:
        gradient = _rounded_scharr(scaled)
    else:
        scaled = avg_pool2d(scaled, _pooling(scaled))
        slopes = _scharr(pad(scaled, (1, 1, 1, 1))) / 16  # 2, B, H, W
        gradient = slopes.square().sum(0).sqrt()  # B, H, W
    return Features(_phase_congruency(scaled, form), gradient, constant)


def _pooling(image: Tensor) -> int:
    """The standard form looks at pictures of about 256 pixels."""
    return max(1, round(min(image.shape[1:]) / 256))


def _rounded_scharr(image: Tensor) -> Tensor:
    """Scharr magnitude as the released code has it: each slope in unsigned 16-bit integers."""
    mirrored = pad(image[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]  # B, H + 2, W + 2
    slopes = _scharr(mirrored).round().clamp(0, 65535)  # 2, B, H, W
    return slopes.square().sum(0).sqrt()  # B, H, W


def _scharr(padded: Tensor) -> Tensor:
    """(2, B, H, W): the unscaled Scharr slopes (3, 10, 3) along columns and rows."""
    rows = 3 * padded[:, :-2] + 10 * padded[:, 1:-1] + 3 * padded[:, 2:]
    columns = 3 * padded[:, :, :-2] + 10 * padded[:, :, 1:-1] + 3 * padded[:, :, 2:]
    x = rows[:, :, 2:] - rows[:, :, :-2]  # B, H, W
    y = columns[:, 2:] - columns[:, :-2]  # B, H, W
    return torch.stack([x, y])


@lru_cache(maxsize=8)
def _bank(shape: tuple[int, int], form: Form, device: torch.device) -> Tensor:
    """(orientations, SCALES, H, W) log-Gabor filters, zero frequency in the corner.

    Real values of a complex type, in float32: PyTorch would else convert them for every product.
    """
    y, x = torch.meshgrid(_frequencies(shape[0]), _frequencies(shape[1]), indexing="ij")
    radius = torch.fft.ifftshift(torch.hypot(x, y))  # H, W
    theta = torch.fft.ifftshift(torch.atan2(-y, x))  # H, W
    radial = torch.stack(_radial(radius, form))  # SCALES, H, W
    angular = torch.stack(_angular(theta, form))  # orientations, H, W
    return (angular[:, None] * radial).to(device, torch.complex64)  # orientations, SCALES, H, W


@lru_cache(maxsize=8)
def _powers(
    shape: tuple[int, int], form: Form, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Of each orientation: the finest filter's power, and that of all responses to noise."""
    powers = []
    for filters in _bank(shape, form, device):
        impulse = torch.fft.ifft2(filters).real * math.sqrt(filters[0].numel())
        # sum h_s^2 and sum_{s<t} h_s h_t, over pixels: 2 S + 4 C = 2 (sum_s h_s)^2
        powers.append((filters[0].real.square().sum(), 2 * impulse.sum(0).square().sum()))
    return powers


def _frequencies(size: int) -> Tensor:
    """Cycles per pixel along an axis, zero in the middle, from -1/2 to at most 1/2."""
    steps = size if size % 2 == 0 else size - 1
    return (torch.arange(size, dtype=torch.float64) - size // 2) / max(steps, 1)


def _radial(radius: Tensor, form: Form) -> list[Tensor]:
    """The part of each scale's filter that depends on the frequency alone."""
    low_pass = 1 / (1 + (radius / 0.45) ** 30)  # nothing from the corners of the spectrum
    radius[0, 0] = 1  # its logarithm is taken
    filters = []
    for scale in range(SCALES):
        log_ratio = torch.log(radius * SHORTEST_WAVE * 2**scale)
        gabor = torch.exp(-(log_ratio**2) / (2 * math.log(form.sigma_on_f) ** 2)) * low_pass
        gabor[0, 0] = 0  # the mean has no phase
        filters.append(gabor)
    return filters


def _angular(theta: Tensor, form: Form) -> list[Tensor]:
    """The part of each orientation's filter that depends on the direction alone."""
    filters = []
    for orientation in range(form.orientations):
        away = theta - orientation * math.pi / form.orientations
        away = torch.atan2(away.sin(), away.cos()).abs()  # 0..pi
        if form == RELEASED:
            filters.append((1 + torch.cos((3 * away).clamp(max=math.pi))) / 2)
        else:
            filters.append(torch.exp(-(away**2) / (2 * (math.pi / 4 / 1.2) ** 2)))
    return filters


def _phase_congruency(image: Tensor, form: Form) -> Tensor:
    """(B, H, W): summed over orientations (released), or energy by amplitude (standard)."""
    about = tuple(image.shape[1:]), form, image.device
    bank, powers = _bank(*about), _powers(*about)
    step = CHUNK if image.device.type == "cpu" else 16 * CHUNK
    parts = []
    for part in image.split(step):
        spectrum = torch.fft.fft2(part)[:, None].to(torch.complex64)  # B, 1, H, W
        total = amplitude = 0.0
        for filters, power in zip(bank, powers, strict=True):
            response = torch.fft.ifft2(spectrum * filters)  # B, SCALES, H, W
            if form == RELEASED:
                total = total + _released_congruency(response)
            else:
                energy, sums = _standard_energy(response, *power)
                total = total + energy
                amplitude = amplitude + sums
        parts.append(total if form == RELEASED else total / amplitude)
    return torch.cat(parts).double()


def _energy(even: Tensor, odd: Tensor, epsilon: float) -> Tensor:
    """Energy along the mean phase minus the deviation from it, summed over scales."""
    even_sum = even.sum(1)  # B, H, W
    odd_sum = odd.sum(1)  # B, H, W
    length = torch.sqrt(even_sum**2 + odd_sum**2)
    across = even * odd_sum[:, None]  # B, SCALES, H, W
    across.addcmul_(odd, even_sum[:, None], value=-1)
    return (length**2 - across.abs_().sum(1)) / (length + epsilon)


def _released_congruency(response: Tensor) -> Tensor:
    """Congruency at one orientation by Kovesi's toolbox; response (B, SCALES, H, W), complex."""
    even, odd = response.real.contiguous(), response.imag.contiguous()
    epsilon = RELEASED.epsilon
    amplitude = even.square().addcmul_(odd, odd).sqrt_()  # B, SCALES, H, W
    # The finest scale is mostly noise, whose amplitudes are Rayleigh: tau from their median.
    tau = _median(amplitude[:, 0].flatten(1)) / math.sqrt(math.log(4))  # B
    noise = tau * (1 - 2.0**-SCALES) / (1 - 0.5)  # summed over the scales
    threshold = noise * (math.sqrt(math.pi / 2) + NOISE_SIGMAS * math.sqrt((4 - math.pi) / 2))
    energy = _energy(even, odd, epsilon) - threshold.clamp(min=epsilon)[:, None, None]
    sums = amplitude.sum(1)  # B, H, W
    width = (sums / (amplitude.amax(1) + epsilon) - 1) / (SCALES - 1)
    spread = torch.sigmoid(10 * (width - 0.5))  # congruency over one scale says little
    return spread * energy.clamp(min=0) / sums


def _standard_energy(
    response: Tensor, finest: Tensor, filter_power: Tensor
) -> tuple[Tensor, Tensor]:
    """Noise-free energy and summed amplitude at one orientation by the FSIM paper's code.

    Args:
        response: (B, SCALES, H, W), complex.
        finest, filter_power: see `_powers`.
    """
    even, odd = response.real.contiguous(), response.imag.contiguous()
    power = even.square().addcmul_(odd, odd)  # B, SCALES, H, W
    lower, _ = _middle(power[:, 0].flatten(1))  # B
    strength = lower / math.log(2) / finest
    tau = torch.sqrt(strength * filter_power / 2)  # B
    threshold = tau * (math.sqrt(math.pi / 2) + NOISE_SIGMAS * math.sqrt(2 - math.pi / 2)) / 1.7
    energy = _energy(even, odd, STANDARD.epsilon) - threshold[:, None, None]
    return energy.clamp_(min=0), power.sqrt_().sum(1)


def _median(values: Tensor) -> Tensor:
    """(B, N) -> (B,): the median, for an even N the mean of the two in the middle."""
    lower, upper = _middle(values)
    return (lower + upper) / 2


def _middle(values: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N) -> (B,) twice: the two values in the middle, for an odd N the same one."""
    places = [(values.shape[1] - 1) // 2, values.shape[1] // 2]
    if values.device.type == "cpu":  # where NumPy's partition is more than twice as fast
        found = torch.from_numpy(np.partition(values.numpy(), places, axis=1)[:, places])
    else:
        found = values.sort(dim=1).values[:, places]
    return found[:, 0], found[:, 1]
