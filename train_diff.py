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
from collections.abc import Sequence
from pathlib import Path

from training.config import TrainConfig
from training.flags import build_parser
from utils.cli import run
from utils.errors import InputError, notice
from utils.locks import alone_in
from utils.optional import lazy
from utils.ranks import place_from_environment

# These import torch when they are first used, so that --help does not wait for it.
distributed = lazy("training.devices.distributed")
pairs = lazy("training.datasets")
runlog = lazy("training.runlog")
starting = lazy("training.start")
trainer = lazy("training.trainer")

PATHS = "data", "train_list", "val_list", "vgg", "labels"
AT_WORK = "wait for it, or choose another --name"


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
        resume = starting.restarted_run(given, group.restarts)
    if not resume:
        train_new(starting.new_run(given), group)
        return
    path = Path(resume)
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise InputError(resume, "no such run", "give a run folder or a checkpoint in it")
    with alone_in(folder, AT_WORK):
        config, resumed = starting.resumed_run(given, path)
        if resumed["epoch"] >= config.epochs:
            done = f"all {config.epochs} epochs of {folder} are done"
            print(f"{done}; train on with a larger --epochs")
            return
        train(config, *prepared(config, group, resumed), group, resumed)


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
    subjects = starting.choose_subjects(config, starting.lists_of(config, resumed))
    processes = group.process.world_size if group else len(devices)
    config.check_batches(len(subjects[0]) + (config.drawn if config.synthesis else 0), processes)
    datasets = pairs.build_datasets(config, *subjects)
    repeated = -len(datasets[0]) % processes
    if repeated:
        number = f"{len(datasets[0])} training items among {processes} processes"
        notice(f"{number}: {repeated} of them are seen twice in an epoch")
    return devices, subjects, datasets


def train(
    config: TrainConfig,
    devices: list,
    subjects: tuple,
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


if __name__ == "__main__":
    run(main)
