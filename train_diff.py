"""Train DC2Fusion, or a 2-D method that it is compared with, on pairs of MRI and PET.

The published command, here on the synthetic cohort because no --data is given:
    python train_diff.py --alpha1 2 --alpha2 1 --beta1 2 --beta2 1 --gamma1 2 --gamma2 1 --gpus 0
On your own data, four GPUs, a run called adni:
    python train_diff.py --data /data/adni --gpus 0,1,2,3 --name adni
MATR on the axial slices of the same subjects, with its own loss and published settings:
    python train_diff.py --data /data/adni --model matr --name matr
On your own data, from the weights that come with the code:
    python train_diff.py --data /data/adni --init weights --name adni
On four GPUs each of two machines, by torchrun on both (docs/training.md):
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \\
        train_diff.py --data /data/adni --name adni
Going on after an interruption:
    python train_diff.py --resume result/adni
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data import splits
from data.subjects import Subject, find_subjects
from training.config import FROM_WEIGHTS, TrainConfig
from training.flags import build_parser
from utils.cli import run
from utils.errors import InputError, notice
from utils.locks import alone_in
from utils.optional import lazy
from utils.ranks import may_restart, place_from_environment

# These import torch when they are first used, so that --help does not wait for it.
phantom = lazy("data.phantom.cohort")
build = lazy("training.build")
checkpoint = lazy("training.checkpoint")
distributed = lazy("training.distributed")
runlog = lazy("training.runlog")
trainer = lazy("training.trainer")
weights = lazy("training.weights")

PATHS = "data", "train_list", "val_list", "vgg", "labels"
SYNTHETIC = Path("synthetic")  # where the synthetic cohort is made
SYNTHETIC_SUBJECTS = 8
AT_WORK = "wait for it, or choose another --name"

Split = tuple[list[Subject], list[Subject]]  # training and validation


def main(argv: Sequence[str] | None = None) -> None:
    """Flags -> one process for each device, which torchrun may have started -> training."""
    place = place_from_environment()
    if place and place.rank:
        distributed.follow(place)
        return
    given = vars(build_parser(__doc__).parse_args(argv))
    for name in PATHS:  # a run may go on from another folder
        if name in given:
            given[name] = os.path.abspath(given[name])
    with distributed.leading(place) as group:
        start(given, group)


def start(given: dict, group: distributed.Group | None) -> None:
    """Configuration -> subjects -> data sets -> run folder -> training.

    Args:
        given: by flags.
        group: the processes that a launcher has started, if one has.
    """
    resume = given.pop("resume", None)
    if resume and Path(resume).name in ("", ".."):  # the folder's name is that of the run
        resume = os.path.abspath(resume)
    if group and not resume:
        resume = restarted_run(given, group.restarts)
    if not resume:
        train_new(new_run(given), group)
        return
    path = Path(resume)
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise InputError(resume, "no such run", "give a run folder or a checkpoint in it")
    with alone_in(folder, AT_WORK):
        config, resumed = resumed_run(given, path)
        if resumed["epoch"] >= config.epochs:
            done = f"all {config.epochs} epochs of {folder} are done"
            print(f"{done}; train on with a larger --epochs")
            return
        train(config, *prepared(config, group, resumed), group, resumed)


def restarted_run(given: dict, restarts: int) -> Path | None:
    """The run to go on with where a launcher has started its processes again.

    Raises:
        InputError: it is to do so, and could not find the run.
    """
    if "name" not in given and may_restart():
        problem = "is missing: a restart by --max-restarts could not find the run"
        raise InputError("--name", problem, "give it")
    if not restarts or "name" not in given:
        return None
    folder = Path(given.get("out", TrainConfig.out)) / given["name"]
    if not (folder / checkpoint.LAST).exists():
        return None
    notice(f"started again by torchrun: going on with {folder}")
    return folder


def train_new(config: TrainConfig, group: distributed.Group | None) -> None:
    """A new run; its folder is there only when nothing speaks against the data."""
    ready = prepared(config, group)
    with alone_in(config.run_folder, AT_WORK):
        config.check_folder()
        train(config, *ready, group)


def prepared(
    config: TrainConfig, group: distributed.Group | None, resumed: dict | None = None
) -> tuple:
    """The devices, the subjects and their data sets, all of them read."""
    devices = [group.process.device] if group else distributed.choose_devices(config.gpus)
    if devices[0].type == "cpu":
        notice("no GPU: training on the CPU; `make demo` is the quick way to see a result")
    if config.published.without_vgg and not config.vgg:
        notice(f"no --vgg: {config.published.without_vgg}")
    subjects = choose_subjects(config, lists_of(config, resumed))
    processes = group.process.world_size if group else len(devices)
    config.check_batches(len(subjects[0]) + (config.drawn if config.synthesis else 0), processes)
    datasets = build.build_datasets(config, *subjects)
    repeated = -len(datasets[0]) % processes
    if repeated:
        number = f"{len(datasets[0])} training items among {processes} processes"
        notice(f"{number}: {repeated} of them are seen twice in an epoch")
    return devices, subjects, datasets


def train(
    config: TrainConfig,
    devices: list,
    subjects: Split,
    datasets: tuple,
    group: distributed.Group | None,
    resumed: dict | None = None,
) -> None:
    """Write the run folder and train, in a process for each device."""
    folder = config.run_folder
    runlog.start_run_folder(config, subjects)
    drawn = f" (and {config.drawn} drawn)" if config.synthesis else ""
    numbers = f"{len(subjects[0])} training{drawn} and {len(subjects[1])} validation pairs"
    print(f"{numbers}; writing to {folder}", flush=True)
    distributed.launch(trainer.train, devices, config, datasets, resumed, group=group)
    print(f"done: {folder}; watch it with: tensorboard --logdir {folder / 'log'}")


def new_run(given: dict) -> TrainConfig:
    """The configuration of a new run, checked before any work is done.

    Raises:
        InputError: values that do not go together, or that no model or objective has.
    """
    given.setdefault("name", time.strftime("run-%Y%m%d-%H%M%S"))
    if given.get("init") == FROM_WEIGHTS:
        given = weights.start_from(weights.read(weights.SHIPPED), given)
    config = TrainConfig.of(given)
    config.check()
    config.check_folder()
    build.check_names(config)
    return config


def resumed_run(given: dict, path: Path) -> tuple[TrainConfig, dict]:
    """The configuration of a run to go on with, and its checkpoint.

    Raises:
        InputError: no such checkpoint, one with values that do not go together, or a flag that
            would make it another run.
    """
    if path.is_dir():
        # Who was killed while the first epoch was saved has the other one alone.
        names = checkpoint.LAST, checkpoint.BEST
        path /= next((name for name in names if (path / name).is_file()), checkpoint.LAST)
    content, config = checkpoint.read_own(path)
    config = config.continued(given, path.parent)
    config.check()
    build.check_names(config)
    return config, content


def lists_of(config: TrainConfig, resumed: dict | None) -> tuple[Path | str, Path | str] | None:
    """The files with the subjects to train and to validate on: a run goes on with its own."""
    if resumed:
        return config.run_folder / splits.TRAIN_FILE, config.run_folder / splits.VALIDATION_FILE
    if config.train_list and config.val_list:
        return config.train_list, config.val_list
    return None


def choose_subjects(config: TrainConfig, lists: tuple[Path | str, Path | str] | None) -> Split:
    """The pairs of two lists, else split by seed; makes the synthetic cohort without --data."""
    root = config.data
    if root is None and config.synthesis:
        return [], []
    if root is None:
        notice(f"no --data: using {SYNTHETIC_SUBJECTS} synthetic subjects in {SYNTHETIC}/")
        phantom.write_cohort(
            SYNTHETIC,
            SYNTHETIC_SUBJECTS,
            progress=lambda names: tqdm(names, "heads", disable=None),
        )
        root = SYNTHETIC
    cohort = find_subjects(root, config.recording, config.run, config.tracer)
    print(cohort.summary())
    if lists is None:
        return splits.random_split(cohort.subjects, config.seed)
    train, validation = (splits.select(cohort, splits.read_list(path), path) for path in lists)
    splits.check_disjoint(train, validation, lists[1])
    return train, validation


if __name__ == "__main__":
    run(main)
