"""Fuse MRI and PET into one NIfTI on the MRI's own grid, with a picture beside it.

One pair:
    python infer_sigleImage.py --mri t1.nii.gz --pet fdg.nii.gz --output fused.nii.gz --checkpoint
    result/adni
Many, from a data set or a table with the columns mri, pet[, output][, subject]:
    python infer_sigleImage.py --data /data/adni --output fused/ --checkpoint result/adni
    python infer_sigleImage.py --list pairs.csv --output fused/ --checkpoint result/adni
By a method that DC2Fusion is compared with, one of swinfuse, u2fusion, dilran, matr, and its
    published weights: python infer_sigleImage.py --mri t1.nii.gz --pet fdg.nii.gz --output
    fused.nii.gz --weights matr=model_10.pth
Without arguments: the newest run under result/ and a synthetic subject that no training has seen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, device_numbers, positive_int, run
from utils.errors import InputError, notice, report

RESULT = Path("result")
HELD_OUT = Path("synthetic-held-out")
HELD_OUT_SEED = 20231015  # another than the training cohort's


def build_parser() -> Parser:
    """The flags."""
    parser = Parser(prog="infer_sigleImage.py", description=__doc__)
    inputs = parser.add_argument_group("what to fuse")
    inputs.add_argument("--mri", metavar="FILE", type=Path, help="MRI, .nii or .nii.gz")
    inputs.add_argument(
        "--pet", metavar="FILE", type=Path, help="PET of the same head, on any grid"
    )
    inputs.add_argument(
        "--data", metavar="ROOT", type=Path, help="data set in the published layout or in BIDS"
    )
    inputs.add_argument("--list", metavar="CSV", type=Path, help="table of pairs")
    inputs.add_argument(
        "--rec", dest="recording", help="BIDS: which rec- label to take of several PETs"
    )
    inputs.add_argument("--run", help="BIDS: which run- number to take of several images")

    network = parser.add_argument_group("network")
    network.add_argument(
        "--checkpoint", type=Path, help="run folder, .pt, or .pth of the released code"
    )
    text = "published weights instead, with options METHOD:OPTION=VALUE,...=FILE"
    network.add_argument("--weights", metavar="METHOD=FILE", help=text)
    text = "of the slices, with --weights (axial)"
    network.add_argument("--plane", choices=("axial", "coronal", "sagittal"), help=text)
    network.add_argument(
        "--variant", choices=("paper", "released"), help="how to read a released .pth (released)"
    )
    network.add_argument(
        "--size",
        type=positive_int,
        default=128,
        help="cube of a released .pth or of --weights (128)",
    )
    network.add_argument(
        "--resolution",
        choices=("published", "native"),
        default="published",
        help="through the size of the training, or at the MRI's own voxels (published)",
    )
    network.add_argument(
        "--gpus", type=device_numbers, default=(0,), metavar="N", help="CUDA device (0)"
    )
    network.add_argument("--amp", action="store_true", help="bfloat16 autocast")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help="NIfTI for --mri and --pet, else a folder (result/fused)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace outputs that are there")
    return parser


def find_jobs(args: argparse.Namespace) -> list:
    """What the flags ask for, as `inference.fuse.Job`s.

    Raises:
        InputError: flags that do not go together, or nothing to fuse.
    """
    from data.subjects import PUBLISHED_MRI, find_subjects, read_pairs, stem
    from inference.fuse import Job

    sources = [flag for flag in ("mri", "data", "list") if getattr(args, flag)]
    if len(sources) > 1:
        raise InputError(f"--{sources[1]}", f"goes not with --{sources[0]}", "give one of them")
    if bool(args.mri) != bool(args.pet):
        missing, given = ("--pet", "--mri") if args.mri else ("--mri", "--pet")
        raise InputError(missing, f"is missing beside {given}", "give both volumes of the pair")
    if args.mri:
        name = (stem(args.mri) or args.mri.name).removesuffix(PUBLISHED_MRI).removesuffix("_T1w")
        return [
            Job(name, args.mri, args.pet, args.output or RESULT / "fused" / f"{name}_fused.nii.gz")
        ]
    folder = args.output or RESULT / "fused"
    if folder.is_file() or folder.name.endswith((".nii", ".nii.gz")):
        raise InputError("--output", f"{folder} is no folder", "give a folder for several results")
    if args.list:
        pairs = read_pairs(args.list)
        return [
            Job(p.subject, p.mri, p.pet, p.output or folder / f"{p.subject}_fused.nii.gz")
            for p in pairs
        ]
    root = args.data or synthetic_root()
    cohort = find_subjects(root, args.recording, args.run)
    print(cohort.summary())
    return [Job(s.name, s.mri, s.pet, folder / f"{s.name}_fused.nii.gz") for s in cohort.subjects]


def synthetic_root() -> Path:
    """Make one synthetic subject that no training has seen."""
    from data.phantom.cohort import write_cohort

    notice(f"no --mri, --data or --list: fusing a synthetic subject, {HELD_OUT}/")
    write_cohort(HELD_OUT, subjects=1, seed=HELD_OUT_SEED)
    return HELD_OUT


def load_network(args: argparse.Namespace):
    """The network that the flags name, without any flag the newest run's.

    Raises:
        InputError: flags that do not go together, or a bad file.
    """
    for flag, value in (("--checkpoint", args.checkpoint), ("--variant", args.variant)):
        if args.weights and value:
            raise InputError(flag, "goes not with --weights", "give one of them")
    if args.plane and not args.weights:
        raise InputError(
            "--plane", "is that of --weights, a run knows its own", "leave the flag out"
        )

    from inference.published import load_published, parse_published
    from inference.trained import load_model, newest_run

    if not args.weights:
        return load_model(args.checkpoint or newest_run(RESULT), args.variant, args.size)
    published = parse_published(args.weights, "--weights")
    return load_published(published, "--weights", args.plane or "axial", "paper", args.size)


def fuse(job, trained, device, args: argparse.Namespace) -> None:
    """Read, fuse, write, picture and score one pair."""
    from data.volume import read_pair, write_like
    from inference.fuse import fuse_pair, score_table
    from utils.pictures import save_fusion_picture

    mri, pet = read_pair(job.mri, job.pet)
    fusion = fuse_pair(trained, mri, pet, device, args.resolution, args.amp)
    write_like(job.output, fusion.fused, mri)
    save_fusion_picture(
        job.picture, fusion.mri, fusion.pet, fusion.fused, mri.voxel_mm, title=job.subject
    )
    print(f"\n{job.subject}: wrote {job.output} and {job.picture}")
    print(f"of the network's output, {fusion.clipped:.1%} lay outside [0, 1] and was clipped")
    print(score_table(fusion))


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> pairs -> network -> fused volumes; returns the exit status."""
    args = build_parser().parse_args(argv)
    trained = load_network(args)

    from training.distributed import choose_devices

    device = choose_devices(args.gpus)[0]
    if device.type == "cpu":
        notice("no GPU: fusing on the CPU")
    print(trained.description)
    trained.model.to(device)
    jobs = find_jobs(args)
    if args.data or args.list:
        return fuse_all(jobs, trained, device, args)
    # The synthetic subject's place is this program's own, everything else is the user's.
    jobs[0].check(args.overwrite or not args.mri)
    fuse(jobs[0], trained, device, args)
    return 0


def fuse_all(jobs: list, trained, device, args: argparse.Namespace) -> int:
    """Fuse many pairs; what is there is skipped, a bad pair is reported and the others go on."""
    from tqdm import tqdm

    skipped, failed = 0, []
    for job in tqdm(jobs, "fusing", unit="pair", disable=None):
        if job.output.exists() and not args.overwrite:
            skipped += 1
            continue
        try:
            job.check(args.overwrite)
            fuse(job, trained, device, args)
        except InputError as error:
            report(error)
            failed.append(job.subject)
    done = len(jobs) - skipped - len(failed)
    print(
        f"\n{done} fused, {skipped} skipped because they were there (--overwrite), {len(failed)} failed",
        *failed,
    )
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
