"""A 2-D fusion method on volumes: slice by slice, each slice shown as on a radiological display.

Volumes are (B, 1, D, H, W) = (B, 1, X, Y, Z) in RAS+ order, pictures (N, 1, H, W). A 2-D method is
an `nn.Module` with `forward(mri, pet) -> fused` on pictures in [0, 1], and these attributes:

    multiple            the sides of a picture that it takes are multiples of this number
    padding             what a picture is padded with up to there, a number or "replicate"; only
                        where multiple > 1
    one_slice           whether it takes one picture a call
    published_stretch   how its authors stretch a fused picture before saving it, "min-max" or
                        "maximum"; absent
                        where they do not
    UNUSED              patterns of names in published weight files that the method never reads
    tensorflow_scopes   where there is a TensorFlow checkpoint: its variable scope of each part of
                        the method

Auto-encoders also have `reconstruct(image)`, which is what their authors train.
"""

import torch
from torch import nn
from torch.nn import functional as F

STRETCHES = ("none", "slice", "volume")

# The axes of (X, Y, Z) that become slices, rows, columns. Rows and columns are then turned round,
# because RAS+ runs to the right, anterior and superior, a display to the left, posterior and
# inferior.
_ORDER = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
PLANES = tuple(_ORDER)


def slices_of(volume: torch.Tensor, plane: str = "axial") -> torch.Tensor:
    """The slices of a volume as a radiological display shows them.

    Args:
        volume: (..., X, Y, Z) in RAS+ order; leading axes are sample and channel, or none.
        plane: "axial": rows from anterior to posterior, columns from the patient's right to left;
            "coronal": rows from superior to inferior, columns from right to left;
            "sagittal": rows from superior to inferior, columns from anterior to posterior.

    Returns:
        (S, 1, H, W), in rising z, y or x; where there are several volumes, one after the other.

    Raises:
        ValueError: for an unknown plane.
    """
    order = _order(plane)
    volumes = volume.reshape(-1, *volume.shape[-3:])
    slices = volumes.permute(0, *(axis + 1 for axis in order)).flip(-2, -1)  # B, S, H, W
    return slices.flatten(0, 1).unsqueeze(1)


def volume_of(slices: torch.Tensor, plane: str = "axial", batch: int = 1) -> torch.Tensor:
    """The inverse of `slices_of`: (S, 1, H, W) -> (batch, 1, X, Y, Z).

    Raises:
        ValueError: for an unknown plane.
    """
    order = _order(plane)
    volumes = slices.view(batch, -1, *slices.shape[-2:]).flip(-2, -1)  # B, S, H, W
    return volumes.permute(0, *(order.index(axis) + 1 for axis in range(3))).unsqueeze(1)


class Slicewise(nn.Module):
    """Runs a 2-D method on every slice of a volume; no method sees two slices at once.

    Slices that are zero in both volumes stay zero and never reach the method.

    Args:
        method: the 2-D method, see the module's docstring.
        plane: "axial", "coronal" or "sagittal".
        batch: slices a call, for methods that take more than one.
        stretch: "none"; "slice" stretches every fused slice as the authors do with the pictures
            they save, which makes brightness flicker from slice to slice; "volume" does so with all
            slices together.

    Raises:
        ValueError: for an unknown plane or stretch, or a stretch that the method does not publish.
    """

    def __init__(
        self, method: nn.Module, plane: str = "axial", batch: int = 8, stretch: str = "none"
    ) -> None:
        super().__init__()
        _order(plane)
        if stretch not in STRETCHES:
            raise ValueError(f"unknown stretch {stretch!r}, choose from {', '.join(STRETCHES)}")
        if stretch != "none" and not hasattr(method, "published_stretch"):
            raise ValueError(f"{type(method).__name__} publishes no stretch, choose stretch 'none'")
        if batch < 1:
            raise ValueError(f"batch must be at least 1 slice, received {batch}")
        self.method = method
        self.plane = plane
        self.batch = 1 if method.one_slice else batch
        self.stretch = stretch

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """Fuse MRI and PET.

        Args:
            mri: (B, 1, D, H, W) = (B, 1, X, Y, Z) in RAS+ order, in [0, 1], any size.
            pet: same shape and range.

        Returns:
            (B, 1, D, H, W) in [0, 1].

        Raises:
            ValueError: if the shapes differ or are not (B, 1, D, H, W).
        """
        if mri.shape != pet.shape or mri.ndim != 5 or mri.shape[1] != 1:
            raise ValueError(
                "expected two volumes of one shape (B, 1, D, H, W), "
                f"received {tuple(mri.shape)} and {tuple(pet.shape)}"
            )
        return torch.cat([self._fuse_volume(*pair) for pair in zip(mri, pet, strict=True)])

    def _fuse_volume(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """(1, X, Y, Z) each -> (1, 1, X, Y, Z)."""
        mri, pet = slices_of(mri, self.plane), slices_of(pet, self.plane)
        filled = (mri.flatten(1).any(dim=1) | pet.flatten(1).any(dim=1)).nonzero().flatten()
        fused = torch.zeros_like(mri)
        if len(filled):
            pictures = [
                self._fuse_pictures(mri[some], pet[some]) for some in filled.split(self.batch)
            ]
            pictures = self._stretched(torch.cat(pictures)).clamp(0, 1)
            fused = fused.index_copy(0, filled, pictures.to(fused.dtype))
        return volume_of(fused, self.plane)

    def _fuse_pictures(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        h, w = mri.shape[-2:]
        down, right = -h % self.method.multiple, -w % self.method.multiple
        if down or right:
            mri, pet = (_pad(pictures, down, right, self.method.padding) for pictures in (mri, pet))
        return self.method(mri, pet)[..., :h, :w]

    def _stretched(self, pictures: torch.Tensor) -> torch.Tensor:
        if self.stretch == "none":
            return pictures
        together = (1, 2, 3) if self.stretch == "slice" else (0, 1, 2, 3)
        low = (
            pictures.amin(together, keepdim=True)
            if self.method.published_stretch == "min-max"
            else 0
        )
        span = pictures.amax(together, keepdim=True) - low
        return (pictures - low) / torch.where(span > 0, span, 1)


def _order(plane: str) -> tuple[int, int, int]:
    if plane not in _ORDER:
        raise ValueError(f"unknown plane {plane!r}, choose from {', '.join(PLANES)}")
    return _ORDER[plane]


def _pad(pictures: torch.Tensor, down: int, right: int, padding: float | str) -> torch.Tensor:
    """Pads at the end of rows and columns."""
    if padding == "replicate":
        return F.pad(pictures, (0, right, 0, down), mode="replicate")
    return F.pad(pictures, (0, right, 0, down), value=padding)
