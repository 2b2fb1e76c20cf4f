"""Fuse MRI and PET into one NIfTI on the MRI's own grid, with a picture beside it.

One pair:
    python infer_sigleImage.py --mri t1.nii.gz --pet fdg.nii.gz --output fused.nii.gz
Many, from a data set or a table with the columns mri, pet[, output][, subject]:
    python infer_sigleImage.py --data /data/adni --output fused/
    python infer_sigleImage.py --list pairs.csv --output fused/
By a network of your own:
    python infer_sigleImage.py --data /data/adni --output fused/ --checkpoint result/adni
By a method that DC2Fusion is compared with, one of swinfuse, u2fusion, dilran, matr, and its
published weights:
    python infer_sigleImage.py --mri t1.nii.gz --pet fdg.nii.gz --output fused.nii.gz \\
        --weights matr=model_10.pth
Under torchrun (docs/training.md) each process fuses its share of the pairs.
Without --checkpoint or --weights: the weights that come with the code. Without a pair: a synthetic
subject that no training has seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.bids import stem
from data.subjects import PUBLISHED_MRI, find_subjects, read_pairs
from inference.flags import build_parser
from utils.cli import run
from utils.errors import InputError, notice
from utils.optional import lazy
from utils.ranks import place_from_environment

# They import torch, scipy or matplotlib, for which --help need not wait.
batch = lazy("inference.batch")
cohort = lazy("data.phantom.cohort")
distributed = lazy("training.devices.distributed")
fuse = lazy("inference.fuse")
optimum = lazy("inference.optimum")
outputs = lazy("inference.outputs")
published = lazy("inference.published")
sidecar = lazy("inference.sidecar")
trained = lazy("inference.trained")

RESULT = Path("result")
HELD_OUT = Path("synthetic-held-out")
HELD_OUT_SEED = 20231015  # another than the training cohort's


def find_jobs(args: argparse.Namespace, derivative: sidecar.Derivative | None) -> list[fuse.Job]:
    """What the flags ask for, with names of a derivative's where there is one.

    Raises:
        InputError: flags that do not go together, or nothing to fuse.
    """
    sources = [flag for flag in ("mri", "data", "list") if getattr(args, flag)]
    if len(sources) > 1:
        problem = f"does not go with --{sources[0]}"
        raise InputError(f"--{sources[1]}", problem, "give one of them")
    if bool(args.mri) != bool(args.pet):
        missing, given = ("--pet", "--mri") if args.mri else ("--mri", "--pet")
        raise InputError(missing, f"is missing beside {given}", "give both volumes of the pair")
    folder = RESULT / "fused"
    if args.mri:
        name = (stem(args.mri) or args.mri.name).removesuffix(PUBLISHED_MRI).removesuffix("_T1w")
        output = args.output or folder / f"{name}_fused.nii.gz"
        return [fuse.Job(name, args.mri, args.pet, output)]
    folder = args.output or folder
    if folder.is_file() or stem(folder):
        raise InputError("--output", f"{folder} is no folder", "give a folder for several results")
    jobs = []
    if args.list:
        for pair in read_pairs(args.list):
            output = pair.output or folder / f"{pair.subject}_fused.nii.gz"
            jobs.append(fuse.Job(pair.subject, pair.mri, pair.pet, output))
        return jobs
    found = find_subjects(args.data or synthetic_root(), args.recording, args.run, args.tracer)
    print(found.summary())
    for subject in found.subjects:
        output = folder / f"{subject.name}_fused.nii.gz"
        if derivative:
            output = derivative.fused_file(subject.mri)
        jobs.append(fuse.Job(subject.name, subject.mri, subject.pet, output))
    return jobs


def synthetic_root() -> Path:
    """Make one synthetic subject that no training has seen."""
    notice(f"no --mri, --data or --list: fusing a synthetic subject, {HELD_OUT}/")
    cohort.write_cohort(HELD_OUT, subjects=1, seed=HELD_OUT_SEED)
    return HELD_OUT


def load_network(args: argparse.Namespace) -> trained.TrainedModel:
    """The network that the flags name, without any flag the one that comes with the code.

    Raises:
        InputError: flags that do not go together, or a bad file.
    """
    for flag, value in (("--checkpoint", args.checkpoint), ("--variant", args.variant)):
        if args.weights and value:
            raise InputError(flag, "does not go with --weights", "give one of them")
    if args.plane and not args.weights:
        problem = "is that of --weights, a run knows its own"
        raise InputError("--plane", problem, "leave the flag out")
    if not args.weights:
        path = trained.choose_checkpoint(args.checkpoint, RESULT)
        return trained.load_model(path, args.variant, args.size)
    weights = published.parse_published(args.weights, "--weights")
    plane = args.plane or "axial"
    return published.load_published(weights, "--weights", plane, "paper", args.size)


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> one process, or those that torchrun has started -> fused volumes; exit status."""
    place = place_from_environment()
    if place and place.rank:
        distributed.follow(place)
        return 0
    args = build_parser(__doc__).parse_args(argv)
    with distributed.leading(place) as group:
        devices = [group.process.device] if group else distributed.choose_devices(args.gpus)
        return distributed.launch(fuse_wanted, devices[:1], args, group=group)


def fuse_wanted(process: distributed.Process, args: argparse.Namespace) -> int:
    """Pairs -> network -> fused volumes, a share in each process; returns the exit status."""
    wanted = outputs.choose_outputs(args)
    network = load_network(args)
    if process.device.type == "cpu":
        notice("no GPU: fusing on the CPU")
    print(network.description)
    if args.balance is not None:
        network = network.turned_to(args.balance)
    network.model.to(process.device)
    # The released fusion layer's weights grow with the volume: its networks keep to their cube.
    resolution = args.resolution or ("published" if network.recipe == "released" else "native")
    refinement = optimum.choose_refinement(args.refine, args.objective, network)
    options = {"device": process.device, "resolution": resolution, "amp": args.amp}
    fuse_pair = partial(fuse.fuse_pair, refinement=refinement, **options)
    settings = {
        "resolution": resolution,
        "refine": refinement.steps if refinement else 0,
        "objective": args.objective or network.objective,
    }
    fusing = batch.Fusing(network, fuse_pair, wanted, settings, turns=not args.objective)
    is_one = not (args.data or args.list)
    if is_one and not process.is_main:
        return 0
    jobs = find_jobs(args, wanted.derivative)
    if wanted.derivative and process.is_main:
        wanted.derivative.write_description()
    if not is_one:
        return fusing.many(jobs, args.overwrite, process)
    # The synthetic subject's place is this program's own, everything else is the user's.
    wanted.check(jobs[0], args.overwrite or not args.mri)
    fusing.one(jobs[0])
    return 0


if __name__ == "__main__":
    run(main)
