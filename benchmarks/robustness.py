"""What a network makes of inputs unlike a research T1 and FDG: a table and a picture.

    python -m benchmarks.robustness --mri T1.nii.gz --pet FDG.nii.gz --out result/robustness

Changes one pair in the ways that patients' scans differ, writes each as files, and reads and fuses
these as `infer_sigleImage.py` does, at native voxels. Columns: the excess (see
`benchmarks.balances`) of what is written and of the network's output before the steps over the
voxels, and the mean SSIM against both sources beside the average's. Writes `robustness.md` and
`robustness.png` to --out.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from benchmarks.balances import CPU, native_pair
from benchmarks.common.measure import machine
from data.subjects import Subject
from data.volume import Volume, read_pair
from inference.optimum import FROM_NETWORK, STEPS, excess, parse_objective, refine
from inference.trained import load_model
from metrics import Scorer
from training.weights import SHIPPED
from utils.cli import positive_int, run
from utils.files import replacing
from utils.planes import plane_of

FWHM = 2 * np.sqrt(2 * np.log(2))
HEAD = 0.05  # of the largest intensity: where a head is, roughly

Image = tuple[np.ndarray, np.ndarray]  # voxels and affine
Change = Callable[[Image, Image], tuple[Image, Image]]


def t2_like(mri: Image, pet: Image) -> tuple[Image, Image]:
    """Liquor bright, white matter dark."""
    array, affine = mri
    return (np.where(array > HEAD, 1.05 - array, array).clip(0), affine), pet


def pd_like(mri: Image, pet: Image) -> tuple[Image, Image]:
    """Tissues alike and bright."""
    return (mri[0] ** 0.4, mri[1]), pet


def amyloid_like(mri: Image, pet: Image) -> tuple[Image, Image]:
    """Uptake in white matter, as of an amyloid tracer without amyloid: the T1, as PETs see."""
    return mri, (_blurred(mri[0], mri[1], 6), mri[1])


def spect_like(mri: Image, pet: Image) -> tuple[Image, Image]:
    """A point spread of 12 mm more."""
    return mri, (_blurred(*pet, 12), pet[1])


def _blurred(array: np.ndarray, affine: np.ndarray, fwhm_mm: float) -> np.ndarray:
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    return ndimage.gaussian_filter(array, fwhm_mm / FWHM / sides)


def thick_slices(mri: Image, pet: Image) -> tuple[Image, Image]:
    """An MRI of axial slices of 6 mm."""
    array, affine = mri
    number = max(1, round(6 / np.linalg.norm(affine[:3, 2])))
    whole = array.shape[2] // number * number
    slabs = array[..., :whole].reshape(*array.shape[:2], -1, number)
    thick = affine @ np.diag([1, 1, number, 1])
    thick[:3, 3] += affine[:3, 2] * (number - 1) / 2
    return (slabs.mean(axis=-1), thick), pet


def misaligned(mri: Image, pet: Image) -> tuple[Image, Image]:
    """The PET 3 mm to the right."""
    moved = pet[1].copy()
    moved[0, 3] += 3
    return mri, (pet[0], moved)


def hot_voxel(mri: Image, pet: Image) -> tuple[Image, Image]:
    """One voxel of the PET 200 times as bright as the rest."""
    array = pet[0].copy()
    array[tuple(side // 2 for side in array.shape)] = 200
    return mri, (array, pet[1])


def stripped(mri: Image, pet: Image) -> tuple[Image, Image]:
    """The MRI only where the PET has uptake."""
    inside = ndimage.binary_opening(pet[0] > 0.3, iterations=2)
    if mri[0].shape != inside.shape:
        return mri, pet
    return (np.where(inside, mri[0], 0), mri[1]), pet


def of_voxels(side_mm: float) -> Change:
    """Both sampled anew with cubic voxels; small ones from the middle of the head alone."""

    def change(mri: Image, pet: Image) -> tuple[Image, Image]:
        return _sampled(*mri, side_mm), _sampled(*pet, side_mm)

    return change


def _sampled(array: np.ndarray, affine: np.ndarray, side_mm: float) -> Image:
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if side_mm < 1:
        box = [
            slice(max(0, n // 2 - k), n // 2 + k)
            for n, k in zip(array.shape, _half(sides), strict=True)
        ]
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
        array = array[tuple(box)]
    grid = [np.arange(0, n - 1, side_mm / s) for n, s in zip(array.shape, sides, strict=True)]
    points = np.meshgrid(*grid, indexing="ij")
    scale = np.diag([*(side_mm / sides), 1])
    return ndimage.map_coordinates(array, points, order=1), affine @ scale


def _half(sides: np.ndarray) -> list[int]:
    """Half of a box of 80 mm, in voxels."""
    return [int(40 / side) for side in sides]


CHANGES: dict[str, Change] = {
    "as it is": lambda mri, pet: (mri, pet),
    "T2-like MRI": t2_like,
    "PD-like MRI": pd_like,
    "amyloid-like PET": amyloid_like,
    "SPECT-like PET": spect_like,
    "6 mm slices": thick_slices,
    "3 mm misaligned": misaligned,
    "a hot voxel": hot_voxel,
    "stripped MRI": stripped,
    "8-bit files": lambda mri, pet: (_bytes(mri), _bytes(pet)),
    "64-bit files": lambda mri, pet: ((mri[0].astype(float), mri[1]), pet),
    "3 mm voxels": of_voxels(3),
    "0.7 mm voxels": of_voxels(0.7),
}


def _bytes(image: Image) -> Image:
    return (255 * image[0]).round().astype(np.uint8), image[1]


def image_of(volume: Volume) -> Image:
    """Voxels with the largest at 1, and the affine."""
    return (volume.array / volume.array.max()).astype(np.float32), volume.affine


def written(mri: Image, pet: Image, folder: Path) -> Subject:
    """The pair as files."""
    files = []
    for name, (array, affine) in (("mri", mri), ("pet", pet)):
        files.append(folder / f"{name}.nii.gz")
        image = nib.Nifti1Image(array, affine)
        image.set_data_dtype(array.dtype)
        nib.save(image, files[-1])
    return Subject("pair", *files, "pair")


@torch.no_grad()
def measure(subject: Subject, args: argparse.Namespace) -> tuple[str, list[Tensor]]:
    """The cells of a row, and the MRI, PET and fused volume."""
    pair = native_pair(subject)
    trained = load_model(args.run)
    objective = parse_objective(trained.objective, "--run")
    sources = pair.mri, pair.pet
    average = (pair.mri + pair.pet) / 2
    output = pair.fuse(trained).float()
    fused = refine(output, *sources, objective, trained.refine, FROM_NETWORK)
    best = refine(average, *sources, objective, args.steps)
    volumes = fused, output, best, average
    losses = [float(objective(volume, *sources)[0]) for volume in volumes]
    excesses = [f"{100 * excess(loss, *losses[2:]):.0f} %" for loss in losses[:2]]
    scorer = Scorer(pair.mri[0, 0], pair.pet[0, 0], names=["ssim"])
    ssim, of_average = (scorer(volume[0, 0].clamp(0, 1))["ssim"] for volume in (fused, average))
    cells = " | ".join([*excesses, f"{ssim:.3f}", f"{of_average:.3f}"])
    return cells, [volume[0, 0] for volume in (*sources, fused)]


def draw(path: Path, rows: dict[str, list[Tensor]]) -> None:
    """The middle axial slice of MRI, PET and fused, radiological, for two changes a row."""
    lines = -(-len(rows) // 2)
    figure = Figure(figsize=(10, 2 * lines + 0.3), layout="constrained")
    panels = figure.subplots(lines, 6, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for place, (name, volumes) in enumerate(rows.items()):
        line = panels[place // 2, 3 * (place % 2) :]
        for axes, title, volume in zip(line, ("MRI", "PET", "fused"), volumes, strict=False):
            plane = plane_of(volume.numpy(), 2, [side // 2 for side in volume.shape])
            axes.imshow(plane, cmap="gray", vmin=0, vmax=1)
            axes.set_title(title if place < 2 else "")
        line[0].set_ylabel(name)
    figure.text(0, 0, "radiological: the patient's right is at the left", fontsize=7)
    figure.savefig(path, dpi=100, format="png")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mri", type=Path, required=True)
    parser.add_argument("--pet", type=Path, required=True)
    parser.add_argument(
        "--run", type=Path, default=SHIPPED, help="(default: the weights that come with the code)"
    )
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument(
        "--steps", type=positive_int, default=STEPS, help=f"to the optimum ({STEPS})"
    )
    parser.add_argument("--out", type=Path, default=Path("result/robustness"))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write everything.

    Raises:
        InputError: bad files, or a run without an objective of volumes.
    """
    args = build_parser().parse_args(argv)
    images = [image_of(volume) for volume in read_pair(args.mri, args.pet)]
    lines = [
        machine(CPU),
        "",
        "| input | excess | of the network | SSIM | SSIM of the average |",
        "|---|---|---|---|---|",
    ]
    rows = {}
    for name in tqdm(args.changes, disable=None):
        with TemporaryDirectory() as folder:
            subject = written(*CHANGES[name](*images), Path(folder))
            cells, rows[name] = measure(subject, args)
        lines.append(f"| {name} | {cells} |")
        with replacing(args.out / "robustness.md") as part:
            part.write_text("\n".join(lines) + "\n")
        with replacing(args.out / "robustness.png") as part:
            draw(part, rows)
    print("\n".join(lines))


if __name__ == "__main__":
    run(main)
