"""Fusing one pair of volumes with a trained network, the result on the MRI's own grid."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, CropForegroundd

from data.bids import stem
from data.settings import Preprocessing
from data.transforms import (
    KEYS,
    deterministic,
    foreground,
    rescale,
    scale_like,
    to_item,
    to_native,
)
from data.volume import Volume, check_output
from inference.trained import TrainedModel
from metrics import Scorer, clip_unit
from models.baselines.slicewise import Slicewise
from utils.errors import InputError

SCORES = ("psnr", "ssim", "nmi")  # printed for a fused pair
OVERLAP = 0.5  # of neighbouring windows


@dataclass(frozen=True)
class Job:
    """One pair to fuse and where to write it."""

    subject: str
    mri: Path
    pet: Path
    output: Path

    @property
    def picture(self) -> Path:
        """The PNG beside the output."""
        return self.output.with_name(stem(self.output) + ".png")

    def check(self, overwrite: bool) -> None:
        """Refuse, before any work is done, outputs that cannot or should not be written.

        Raises:
            InputError: naming the volume or the picture.
        """
        check_output(self.output, (self.mri, self.pet), overwrite)
        if self.picture.is_dir() or (self.picture.exists() and not overwrite):
            raise InputError(
                self.picture, "is already there", "choose another output or pass --overwrite"
            )


@dataclass(frozen=True)
class Fusion:
    """A fused volume beside its sources; arrays are (X, Y, Z) float32 in RAS+ order on the MRI's
    grid.

    Attributes:
        fused: in [0, 1], 0 outside the foreground.
        mri, pet: the sources on the scale of the network's inputs, clipped to [0, 1].
        foreground: where the MRI is above 0, cavities filled.
        clipped: fraction of the network's output that lay outside [0, 1].
    """

    fused: np.ndarray
    mri: np.ndarray
    pet: np.ndarray
    foreground: np.ndarray
    clipped: float


@torch.no_grad()
def fuse_pair(
    trained: TrainedModel,
    mri: Volume,
    pet: Volume,
    device: torch.device,
    resolution: str = "published",
    amp: bool = False,
) -> Fusion:
    """Fuse a pair.

    Args:
        trained: the network, already on `device`.
        mri, pet: one pair on one grid, see `data.volume.read_pair`.
        resolution: "published" crops, pads and resizes to the size of the training, fuses once and
            interpolates back. "native" runs the network at the MRI's own voxels, DC2Fusion in
            overlapping windows of the training's size where the head is larger than one.
        amp: bfloat16 autocast.

    Raises:
        InputError: the network's output is NaN or infinite.
    """
    if resolution == "published":
        steps = deterministic(Preprocessing(trained.recipe, trained.size), mri.voxel_mm)
    else:
        steps = Compose([CropForegroundd(KEYS, source_key="mri", allow_smaller=True)])
    prepared = steps(to_item(mri, pet))
    scaled = rescale()({key: prepared[key].as_tensor() for key in KEYS})
    inputs = torch.stack([torch.as_tensor(scaled[key]) for key in KEYS], dim=1)  # 1, 2, D, H, W
    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
        output = _run(trained, inputs, device, resolution)
    output = output[0].float().cpu()
    if not output.isfinite().all():
        problem = f"the network's output for {mri.path} is NaN or infinite"
        raise InputError(trained.source, problem, "give a checkpoint whose training was stable")
    output, clipped = clip_unit(output)
    inside = foreground(mri.array)
    native = to_native(output, prepared, steps)
    return Fusion(
        fused=np.where(inside, native.clip(0, 1), 0).astype(np.float32),
        mri=scale_like(mri.array, prepared["mri"]),
        pet=scale_like(pet.array, prepared["pet"]),
        foreground=inside,
        clipped=clipped,
    )


def _run(
    trained: TrainedModel, inputs: torch.Tensor, device: torch.device, resolution: str
) -> torch.Tensor:
    """(1, 2, D, H, W) MRI and PET -> (1, 1, D, H, W) fused."""
    model, sides = trained.model, inputs.shape[2:]
    if resolution == "published" or max(sides) <= trained.size or isinstance(model, Slicewise):
        return model(*inputs.to(device).split(1, dim=1))
    # Windows are blended as stream maps: the fusion layer's weights belong to the whole volume.
    maps = sliding_window_inference(
        inputs,
        roi_size=[min(trained.size, side) for side in sides],
        sw_batch_size=1,
        predictor=lambda window: model.stream_maps(*window.split(1, dim=1)).float(),
        overlap=OVERLAP,
        mode="gaussian",
        sw_device=device,
        device="cpu",
    )
    return model.fuse_maps(maps[:, :1], maps[:, 1:])


def score_table(fusion: Fusion) -> str:
    """The fused volume's scores against both sources, beside those of the average and of a copy of
    the MRI.

    The references lie under the same foreground; the rows are lines of text, MRI / PET in each
    cell.
    """
    scorer = Scorer(fusion.mri, fusion.pet, names=SCORES)
    rows = {
        "fused": fusion.fused,
        "average": (fusion.mri + fusion.pet) / 2 * fusion.foreground,
        "copy of the MRI": fusion.mri * fusion.foreground,
    }
    lines = [f"{'against MRI / PET':18}" + "".join(f"{name.upper():>18}" for name in SCORES)]
    for name, volume in rows.items():
        scores = scorer(volume)
        cells = [f"{scores[f'{s}_mri']:.3f} / {scores[f'{s}_pet']:.3f}" for s in SCORES]
        lines.append(f"{name:18}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
