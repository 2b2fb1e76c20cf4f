"""Fusing one pair of volumes with a trained network, the result on the MRI's own grid."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.bids import stem
from data.foreground import box_of, foreground, scale_between, without_hot_voxels
from data.settings import RECIPES, Preprocessing
from data.volume import Volume, check_output
from inference.optimum import Refinement
from inference.trained import TrainedModel
from metrics import clip_unit
from metrics.blocks import score_in_blocks
from metrics.ssim import WINDOW
from models.baselines.slicewise import Slicewise
from models.dc2fusion import DC2Fusion, deepest_token
from models.fusion_layer import VOXELWISE
from utils.errors import InputError, notice
from utils.optional import lazy

# It imports MONAI, for which fusing at native voxels need not wait.
transforms = lazy("data.transforms")

SCORES = ("psnr", "ssim", "nmi")  # printed for a fused pair
# Windows of native inference, by measurement (docs/performance.md): smaller ones, and what they
# share, are computed more than once.
LEAST_WINDOW = 96  # voxels a side that a window may have, whatever the training's size
OVERLAP = 1 / 16  # of the largest side: what neighbouring windows share at least


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
            remedy = "choose another output or pass --overwrite"
            raise InputError(self.picture, "is already there", remedy)


Scales = list[tuple[float, float]]  # of MRI and PET: the values that become 0 and 1


@dataclass(frozen=True)
class Fusion:
    """A fused volume beside its sources, (X, Y, Z) float32 in RAS+ order on the MRI's grid.

    Attributes:
        fused: in [0, 1], 0 outside the foreground.
        mri, pet: the sources on the scale of the network's inputs, clipped to [0, 1].
        foreground: where the recipe sees the head.
        clipped: fraction of the network's output that lay outside [0, 1].
        scales: of MRI and PET, the values of the files that are 0 and 1 here.
    """

    fused: np.ndarray
    mri: np.ndarray
    pet: np.ndarray
    foreground: np.ndarray
    clipped: float
    scales: Scales


@torch.no_grad()
def fuse_pair(
    trained: TrainedModel,
    mri: Volume,
    pet: Volume,
    device: torch.device,
    resolution: str = "native",
    amp: bool = False,
    refinement: Refinement | None = None,
) -> Fusion:
    """Fuse a pair.

    Args:
        trained: the network, already on `device`.
        mri, pet: one pair on one grid, see `data.volume.read_pair`.
        resolution: "native" runs the network at the MRI's own voxels, DC2Fusion in overlapping
            windows of at most the training's size, or 96 voxels, where the head is larger.
            "published" crops, pads and resizes to the size of the training, fuses once and
            interpolates back.
        amp: bfloat16 autocast.
        refinement: of the network's output over its voxels, in float32; see
            `inference.optimum.choose_refinement`.

    Raises:
        InputError: the network's output is NaN or infinite.
    """
    recipe = RECIPES[trained.recipe]
    pair = without_hot_voxels((mri, pet), recipe.robust)
    inside = foreground(pair[0].array, recipe)
    run = _native if resolution == "native" else _published
    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
        fused, scales, clipped = run(trained, pair, inside, device, refinement)
    fused[~inside] = 0
    scaled = [scale_between(v.array, *scale) for v, scale in zip(pair, scales, strict=True)]
    return Fusion(fused, *scaled, foreground=inside, clipped=clipped, scales=scales)


def _published(
    trained: TrainedModel,
    pair: tuple[Volume, Volume],
    inside: np.ndarray,
    device: torch.device,
    refinement: Refinement | None,
) -> tuple[np.ndarray, Scales, float]:
    """Fuse at the size of the training; the result on the MRI's grid, scales, part clipped."""
    steps = transforms.deterministic(Preprocessing(trained.recipe, trained.size), pair[0].voxel_mm)
    prepared = steps(transforms.to_item(*pair))
    sources = {key: prepared[key].as_tensor() for key in transforms.KEYS}
    scaled = transforms.rescale()(sources).values()
    inputs = [torch.as_tensor(volume)[None].to(device) for volume in scaled]
    output, clipped = clip_unit(_checked(trained, pair, trained.model(*inputs)))
    if refinement:
        output = refinement(trained, output, *inputs)
    output = output[0].cpu()
    scales = [(float(volume.min()), float(volume.max())) for volume in sources.values()]
    return transforms.to_native(output, prepared, steps).clip(0, 1), scales, clipped


def _native(
    trained: TrainedModel,
    pair: tuple[Volume, Volume],
    inside: np.ndarray,
    device: torch.device,
    refinement: Refinement | None,
) -> tuple[np.ndarray, Scales, float]:
    """Fuse the head's box at its own voxels; as `_published`."""
    head = Head(pair, inside)

    def inputs(part: tuple[slice, ...]) -> list[Tensor]:
        return head.inputs(part, device)

    seen = None if refinement else inside[head.box]  # a refinement starts from all of it
    side = window_side(trained.size)
    output = run_network(trained.model, side, head.shape, inputs, seen)
    output, clipped = clip_unit(_checked(trained, pair, output))
    if refinement:
        output = refinement(trained, output.to(device), *inputs(()))
    output = output[0].cpu()
    fused = np.zeros(inside.shape, np.float32)
    fused[head.box] = output[0].numpy()
    return fused, head.scales, clipped


class Head:
    """The box around the head of a pair, as a network takes it: what is fused at native voxels.

    Args:
        pair: MRI and PET on one grid, without hot voxels.
        inside: the foreground.

    Attributes:
        box: where it lies.
        shape: its sides.
        scales: the values in it that become 0 and 1, of MRI and PET.
    """

    def __init__(self, pair: tuple[Volume, Volume], inside: np.ndarray) -> None:
        self.box = box_of(inside)
        self.cuts = [volume.array[self.box] for volume in pair]
        self.shape = self.cuts[0].shape
        self.scales: Scales = [(float(cut.min()), float(cut.max())) for cut in self.cuts]

    def inputs(self, part: tuple[slice, ...], device: torch.device) -> list[Tensor]:
        """MRI and PET of a part of the box, (1, 1, D, H, W) each; of all of it by ()."""
        arrays = [scale_between(c[part], *s) for c, s in zip(self.cuts, self.scales, strict=True)]
        return [torch.from_numpy(array)[None, None].to(device) for array in arrays]


def window_side(trained_size: int) -> int:
    """Voxels a side that a window of native inference may have, from those of the training."""
    return max(trained_size, LEAST_WINDOW)


def run_network(
    model: nn.Module,
    size: int,
    shape: tuple[int, ...],
    inputs: Callable[[tuple[slice, ...]], Sequence[Tensor]],
    seen: np.ndarray | None = None,
    overlap: float = OVERLAP,
) -> Tensor:
    """Fuse a volume at once, or in overlapping windows where it is larger than one.

    Args:
        model: on the device of what `inputs` returns.
        size: most voxels a side of a window, see `window_side`.
        shape: D, H, W of the volume.
        inputs: MRI and PET of a part of it, (1, 1, d, h, w) each; of all of it by ().
        seen: bool (D, H, W), what the caller looks at: a window without any of it is left out, as
            long as the fusion layer needs none of what lies there. None for everything.
        overlap: share of `size` that neighbouring windows have in common at least.

    Returns:
        (1, 1, D, H, W), on the CPU where windows were needed.
    """
    if max(shape) <= size or isinstance(model, Slicewise):
        return model(*inputs(()))
    # Blended as stream maps: the fusion layer's weights belong to the whole volume.
    maps = torch.zeros(1, 2, *shape)
    grain = deepest_token(len(model.encoder)) if isinstance(model, DC2Fusion) else 1
    may_leave_out = seen is not None and model.fuse_maps in VOXELWISE
    for part, weights in _windows(shape, size, overlap, grain):
        if may_leave_out and not seen[part].any():
            continue
        maps[(..., *part)] += model.stream_maps(*inputs(part)).float().cpu() * weights
    output = model.fuse_maps(maps[:, :1], maps[:, 1:])
    del maps
    for start in range(0, shape[0], size):
        planes = slice(start, start + size)
        part, sources = output[:, :, planes], inputs((planes,))
        part.copy_(model.gated(part.to(sources[0].device), *sources))
    return output


def _checked(trained: TrainedModel, pair: tuple[Volume, Volume], output: Tensor) -> Tensor:
    """The network's output in float32, where all of it is finite."""
    output = output.float()
    if not output.isfinite().all():
        problem = f"the network's output for {pair[0].path} is NaN or infinite"
        raise InputError(trained.source, problem, "give a checkpoint whose training was stable")
    return output


def _windows(
    shape: tuple[int, ...], size: int, overlap: float, grain: int
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Windows of at most size^3, spread evenly, and the weights that blend them: they sum to 1.

    They are as small as their number allows, in steps of `grain`: what neighbours share is computed
    several times.
    """
    axes = [_spans(side, size, int(overlap * size), grain) for side in shape]
    for spans in product(*axes):
        (first, x), (second, y), (third, z) = spans
        yield (first, second, third), x[:, None, None] * y[:, None] * z


def _spans(side: int, size: int, shared: int, grain: int) -> list[tuple[slice, Tensor]]:
    """The windows along one axis with their weights."""
    if side <= size:
        return [(slice(0, side), torch.ones(side))]
    count = math.ceil((side - shared) / (size - shared))
    least = math.ceil((side + (count - 1) * shared) / count)
    length = min(size, -(-least // grain) * grain)
    starts = np.linspace(0, side - length, count).round().astype(int).tolist()
    # Rising across what the first two share, falling at the other end.
    rise = ((torch.arange(length) + 1) / (starts[0] + length - starts[1] + 1)).clamp(max=1)
    weights = torch.minimum(rise, rise.flip(0))
    total = torch.zeros(side)
    for start in starts:
        total[start : start + length] += weights
    spans = [slice(start, start + length) for start in starts]
    return [(span, weights / total[span]) for span in spans]


def score_rows(fusion: Fusion) -> list[list[str]]:
    """The fused volume's scores beside those of the average and of a copy of the MRI.

    The references lie under the same foreground. Rows of cells, the header first; MRI / PET in each
    cell.
    """
    average = fusion.mri + fusion.pet
    average *= 0.5
    average *= fusion.foreground
    copy = fusion.mri * fusion.foreground
    volumes = {"fused": fusion.fused, "average": average, "copy of the MRI": copy}
    scores = score_in_blocks(list(volumes.values()), fusion.mri, fusion.pet)
    if min(fusion.mri.shape) < WINDOW:
        notice(f"SSIM has no value (nan): a window has {WINDOW} voxels a side, the volume fewer")
    rows = [["against MRI / PET", *map(str.upper, SCORES)]]
    for name, values in zip(volumes, scores, strict=True):
        rows.append(
            [name, *(f"{values[f'{s}_mri']:.3f} / {values[f'{s}_pet']:.3f}" for s in SCORES)]
        )
    return rows


def score_table(rows: list[list[str]]) -> str:
    """Rows of cells as lines of text."""
    lines = []
    for name, *cells in rows:
        lines.append(f"{name:18}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
