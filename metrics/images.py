"""What every metric shares: checked float64 images, clipping, grey scales, masks, filters.

Layout everywhere in this package: `(B, *spatial)`, B images of two or three spatial axes, on any
device. A mask is a boolean tensor of the same shape, or None for every pixel. Results are `(B,)`.

Everything is float64. That keeps SSIM's E[x^2] - mu^2 exact, and it is out of reach of TF32 and of
autocast, which only touch float32. The one exception is FSIM's phase congruency.
"""

import math

import numpy as np
import torch
from torch import Tensor

Image = np.ndarray | Tensor


class TooSmall(ValueError):
    """An image has a side shorter than the window that a metric slides over it."""


def as_image(volume: Image, name: str = "image", device: torch.device | None = None) -> Tensor:
    """A detached float64 tensor of `volume`, or an error that names it.

    Raises:
        ValueError: if a voxel is NaN or infinite; a score of such a volume means nothing.
    """
    if isinstance(volume, np.ndarray) and any(stride < 0 for stride in volume.strides):
        volume = volume.copy()  # torch cannot view a flipped array
    tensor = torch.as_tensor(volume).detach()
    tensor = tensor.as_subclass(Tensor)  # a MetaTensor drags its metadata along
    device = device or tensor.device
    if device.type not in ("cpu", "cuda"):
        device = torch.device("cpu")  # float64 does not exist on MPS
    tensor = tensor.to(device, torch.float64)
    if tensor.numel() == 0:
        raise ValueError(f"{name}: it has no voxels, its shape is {tuple(tensor.shape)}")
    if not torch.stack(tensor.aminmax()).isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise ValueError(f"{name}: {bad} of {tensor.numel()} voxels are NaN or infinite")
    return tensor


def clip_unit(volume: Image) -> tuple[Image, float]:
    """Clip to [0, 1] and report the fraction of voxels that were outside.

    The one place where intensities are clipped: every method is clipped by the same rule, and the
    fraction says how much of the volume that changed. Takes and returns an array or a tensor, the
    same one where nothing was outside.
    """
    if volume.min() >= 0 and volume.max() <= 1:
        return volume, 0.0
    outside = (volume < 0) | (volume > 1)
    return volume.clip(0, 1), float(outside.sum()) / math.prod(volume.shape)


def head_mask(mri: Tensor, pet: Tensor) -> Tensor:
    """Where either source is above 0.05 of the [0, 1] scale."""
    threshold = float(np.float32(0.05))  # the volumes were float32 before they came here
    return (mri > threshold) | (pet > threshold)


def to_255(image: Tensor, scale: str = "f255") -> Tensor:
    """The [0, 1] image on the 0..255 scale of the classical fusion metrics, still float64.

    `scale` is "f255" (times 255, nothing rounded) or "u8" (also rounded half to even and clipped
    to 0..255, as an 8-bit picture would store it).
    """
    if scale == "f255":
        return image * 255.0
    if scale == "u8":
        return (image * 255.0).round().clamp(0, 255)
    raise ValueError(f"scale is {scale!r}; it is 'f255' or 'u8'")


def flat(image: Tensor) -> Tensor:
    """(B, *spatial) -> (B, N)."""
    return image.reshape(len(image), -1)


def spread_over(values: Tensor, image: Tensor) -> Tensor:
    """One value for each image, (B,) -> (B, 1, ...), to go with the pixels of `image`."""
    return values.reshape(-1, *[1] * (image.ndim - 1))


def is_constant(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) whether an image has one value only (in the mask)."""
    if mask is None:
        low, high = flat(image).aminmax(dim=1)
    else:
        low = flat(torch.where(mask, image, torch.inf)).amin(1)
        high = flat(torch.where(mask, image, -torch.inf)).amax(1)
    return low >= high


def undefined_where(condition: Tensor, values: Tensor) -> Tensor:
    """`values` with NaN where `condition` holds: no made-up number for a degenerate input."""
    return torch.where(condition, torch.full_like(values, math.nan), values)


def selected(image: Tensor, mask: Tensor | None) -> list[Tensor]:
    """The pixels of each image that count, one vector per image."""
    if mask is None:
        return list(flat(image))
    return [values[keep] for values, keep in zip(flat(image), flat(mask), strict=True)]


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """(B,) mean over the pixels of the mask; NaN where the mask is empty."""
    if mask is None:
        return flat(values).mean(1)
    weights = flat(mask).to(values.dtype)
    return (flat(values) * weights).sum(1) / weights.sum(1)


def masked_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    """(B,) sum over the pixels of the mask."""
    return flat(values if mask is None else values * mask).sum(1)


def crop(image: Tensor | None, margin: int, end: int | None = None) -> Tensor | None:
    """Cut `margin` pixels off the start and `end` (default: as many) off the end of each axis."""
    if image is None:
        return None
    end = margin if end is None else end
    for axis in range(1, image.ndim):
        image = image.narrow(axis, margin, image.shape[axis] - margin - end)
    return image


def gaussian(size: int, sigma: float) -> Tensor:
    """`size` Gaussian weights that sum to 1."""
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    return weights / weights.sum()


def filter_valid(image: Tensor, taps: Tensor) -> Tensor:
    """Correlate with the same 1-D `taps` along every spatial axis, windows inside the image only.

    (B, *spatial) -> (B, *(spatial - len(taps) + 1)). Each pass is a product with a banded matrix:
    for windows of 5 to 20 taps that is several times faster than a convolution, on CPU and GPU.
    """
    for axis in range(1, image.ndim):
        size = image.shape[axis]
        outputs = size - len(taps) + 1
        if outputs < 1:
            raise TooSmall(f"a side of {size} pixels is shorter than a window of {len(taps)}")
        band = image.new_zeros(outputs, size)
        starts = torch.arange(outputs)[:, None]
        band[starts, starts + torch.arange(len(taps))] = taps.to(image)
        before, after = image.shape[:axis], image.shape[axis + 1 :]
        if not after:
            rows = image.reshape(-1, size)
            filtered = rows @ band.T.contiguous()  # rows, outputs
        else:
            columns = image.reshape(math.prod(before), size, -1)
            filtered = torch.bmm(band.expand(len(columns), -1, -1), columns)
        image = filtered.reshape(*before, outputs, *after)
    return image
