"""Kills at any moment: what of a run is lost, half-written or another than without them.

python -m tests.endurance --kills 100        the long form: random moments, a table
pytest tests/test_endurance.py               the short one: chosen moments of three programs

prepare.py runs with a stand-in for ANTs (`tests.helpers.unaligned`), which would take minutes; all
that reads, writes and moves files is its own. `--align` has it align.

A program runs in a forked process that is killed by SIGKILL, starts again as its user would, and
so on until it ends; then its files are compared with those of a run that nobody killed.
"""

import argparse
import contextlib
import hashlib
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import infer_sigleImage
import prepare
import train_diff
from data.phantom.cohort import write_cohort
from preparation import cohort
from tests.helpers import unaligned
from tests.helpers.runs import QUICK, save_small_weights, table
from training import checkpoint
from utils.cli import run

SUBJECTS = 3


@dataclass(frozen=True)
class Program:
    """A program at work in a folder.

    Attributes:
        main: of the script.
        flags: `(inputs, folder) -> flags`, by what is there already.
        result: `folder -> {part: value}` of what it leaves, as it must be whatever happened.
        check: looks at what a kill has left; raises where a file is half-written.
    """

    main: Callable
    flags: Callable[[Path, Path], list]
    result: Callable[[Path], dict]
    check: Callable[[Path], None]


# Programs ----------------------------------------------------------------------------------------


def _whole(folder: Path, pattern: str) -> list[Path]:
    """The files that there are for whoever reads the folder; not those that a kill cut short."""
    found = sorted(folder.glob(pattern))
    return [
        file
        for file in found
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _train_flags(inputs: Path, folder: Path) -> list:
    if _whole(folder, "run/*.pt"):
        return ["--resume", folder / "run"]
    common = ["--data", inputs / "data", "--out", folder, "--name", "run", *QUICK]
    return [*common, "--depths", 1, "--epochs", 4]


def _train_result(folder: Path) -> dict:
    found = {}
    for name in (checkpoint.LAST, checkpoint.BEST):
        content = checkpoint.read(folder / "run" / name)
        moments = content["optimizer"]["state"]
        tensors = [*content["model"].values()]
        tensors += [value for index in sorted(moments) for value in moments[index].values()]
        found[name] = _hash(*(tensor.numpy().tobytes() for tensor in tensors))
        found[f"{name} epoch"] = content["epoch"], content["step"], content["best"]
    losses = table(folder / "run" / "losses.csv")
    found["losses"] = [
        {key: value for key, value in row.items() if key.startswith(("epoch", "loss"))}
        for row in losses
    ]
    found["scores"] = (folder / "run" / "scores.csv").read_text()
    for name in ("training", "dc2fusion", "average"):
        events = EventAccumulator(str(folder / "run" / "log" / name)).Reload()
        tags = events.Tags()
        for tag in (t for t in tags["scalars"] if t.startswith(("loss", "validation"))):
            found[f"{name} {tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in tags["images"]:
            found[f"{name} {tag}"] = [event.step for event in events.Images(tag)]
    return found


def _train_check(folder: Path) -> None:
    for path in _whole(folder, "run/*.pt"):
        checkpoint.read_own(path)


def _infer_flags(inputs: Path, folder: Path) -> list:
    weights = inputs / "small.safetensors"
    return ["--data", inputs / "data", "--output", folder, "--checkpoint", weights]


def _volumes(folder: Path) -> dict:
    return {
        str(path.relative_to(folder)): _hash(nib.load(path).get_fdata().tobytes())
        for path in _whole(folder, "**/*.nii.gz")
    }


def _evaluate_flags(inputs: Path, folder: Path) -> list:
    scored = ["--protocol", "volume", "--metrics", "psnr", "--size", 32, "--no-trivial"]
    return ["--data", inputs / "data", "--out", folder, "--methods", "laplacian", *scored]


def _evaluate_result(folder: Path) -> dict:
    names = ("scores.csv", "scores.json", "table.md")
    return {name: (folder / name).read_text() for name in names} | {
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    }


def _evaluate_check(folder: Path) -> None:
    for path in _whole(folder, "*.csv"):
        table(path)


def _prepare_unaligned(argv: list[str]) -> int:
    """prepare.py in this forked process, with the stand-in in those of its subjects."""
    cohort.prepare_subject = unaligned.prepare_subject
    return prepare.main(argv)


def _prepare_flags(inputs: Path, folder: Path) -> list:
    return ["--pairs", inputs / "pairs.csv", "--out", folder, "--jobs", 1]


PROGRAMS = {
    "train": Program(train_diff.main, _train_flags, _train_result, _train_check),
    "infer": Program(infer_sigleImage.main, _infer_flags, _volumes, _volumes),
    "evaluate": Program(evaluate.main, _evaluate_flags, _evaluate_result, _evaluate_check),
    "prepare": Program(_prepare_unaligned, _prepare_flags, _volumes, _volumes),
}


def make_inputs(folder: Path) -> Path:
    """A small cohort, a table of its pairs and a small network; returns their folder."""
    write_cohort(folder / "data", SUBJECTS, voxel_mm=6)
    save_small_weights(folder / "small.safetensors")
    lines = ["subject,mri,pet"]
    for path in sorted((folder / "data").iterdir()):
        if path.is_dir():
            start = f"data/{path.name}/{path.name}"
            mri, pet = f"{start}_mri_MNI152.nii.gz", f"{start}_FDG_MNI152.nii.gz"
            lines.append(f"{path.name},{mri},{pet}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# Runs that are killed ----------------------------------------------------------------------------


def attempt(
    program: Program, inputs: Path, folder: Path, at_write: int = 0, after_s: float = 0
) -> int:
    """One run, perhaps killed; returns its exit status, -9 for a kill.

    Args:
        at_write: kill when it asks for the so many-th file or folder to be put on the disk.
        after_s: kill after so many seconds.
    """
    flags = [str(flag) for flag in program.flags(inputs, folder)]
    log = folder.with_name(f"{folder.name}.log")
    process = os.fork()
    if process == 0:
        _run_forked(program, flags, log, at_write)
    until = time.monotonic() + (after_s or float("inf"))
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            os.kill(process, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.01)


def _run_forked(program: Program, flags: list[str], log: Path, at_write: int) -> None:
    """The forked process; never returns."""
    status = 99
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
        torch.set_num_threads(1)
        if at_write:
            _kill_at_write(at_write)
        run(lambda: program.main(flags))
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _kill_at_write(number: int) -> None:
    """Have this process killed in the middle of putting its so many-th file on the disk."""
    real, left = os.fsync, iter(range(number - 1, -1, -1))

    def fsync(descriptor: int) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync


def reference(program: Program, inputs: Path, folder: Path) -> tuple[dict, float]:
    """What a run that nobody kills leaves, and its seconds."""
    started = time.monotonic()
    status = attempt(program, inputs, folder)
    assert status == 0, folder.with_name(f"{folder.name}.log").read_text()
    return program.result(folder), time.monotonic() - started


def leftovers(folder: Path) -> list[Path]:
    """Files of killed writes, and locks."""
    found = [*folder.rglob(".tmp-*"), *folder.rglob(".lock")]
    return [path for path in found if ".prepare" not in path.parts]


# The long form -----------------------------------------------------------------------------------


@dataclass
class Count:
    """What kills have done to a program's runs."""

    kills: int = 0
    lost: int = 0
    half_written: int = 0
    unequal: int = 0
    leftovers: int = 0


def endure(name: str, kills: int, inputs: Path, room: Path, draw: random.Random) -> Count:
    """Kill a program again and again until it was killed so many times."""
    program, count = PROGRAMS[name], Count()
    expected, seconds = reference(program, inputs, room / name)
    while count.kills < kills:
        folder = room / f"{name}-{count.kills}"
        while True:
            budget = draw.uniform(0.05, 1.05) * seconds if count.kills < kills else 0
            status = attempt(program, inputs, folder, after_s=budget)
            if status != -signal.SIGKILL:
                break
            count.kills += 1
            try:
                program.check(folder)
            except Exception as error:
                print(f"{name}: half-written: {error}")
                count.half_written += 1
        if status:
            print(f"{name}: ended with {status}, see {folder}.log")
            count.lost += 1
            continue
        result = program.result(folder)
        different = [part for part, value in expected.items() if result.get(part) != value]
        if different:
            print(f"{name}: unequal: {', '.join(different)}")
        count.unequal += bool(different)
        count.leftovers += len(leftovers(folder))
        shutil.rmtree(folder)
    return count


def main(argv: list[str] | None = None) -> None:
    """Print the table of all programs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="of each program (100)")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--align", action="store_true", help="prepare.py with ANTs")
    args = parser.parse_args(argv)
    if args.align:
        PROGRAMS["prepare"] = replace(PROGRAMS["prepare"], main=prepare.main)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what it purges
    print(
        "| program | kills | lost | half-written | unequal | left over |\n|---|---|---|---|---|---|"
    )
    with _room() as room:
        inputs = make_inputs(room / "inputs")
        for name in args.programs:
            found = endure(name, args.kills, inputs, room, random.Random(args.seed))
            numbers = found.kills, found.lost, found.half_written, found.unequal, found.leftovers
            print(f"| {name} | {' | '.join(map(str, numbers))} |", flush=True)


@contextlib.contextmanager
def _room() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
