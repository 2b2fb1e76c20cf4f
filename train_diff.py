"""Train DC2Fusion, or a 2-D method that it is compared with, on pairs of MRI and PET.

The published command, here on the synthetic cohort because no --data is given:
    python train_diff.py --alpha1 2 --alpha2 1 --beta1 2 --beta2 1 --gamma1 2 --gamma2 1 --gpus 0
On your own data, four GPUs, a run called adni:
    python train_diff.py --data /data/adni --gpus 0,1,2,3 --name adni
MATR on the axial slices of the same subjects, with its own loss and published settings:
    python train_diff.py --data /data/adni --model matr --name matr
Going on after an interruption:
    python train_diff.py --resume result/adni
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from training.config import TrainConfig
from training.flags import build_parser
from utils.cli import run
from utils.errors import InputError, notice

SYNTHETIC = Path("synthetic")  # where the synthetic cohort is made
SYNTHETIC_SUBJECTS = 8


def choose_subjects(config: TrainConfig, lists: tuple) -> tuple[list, list]:
    """The training and the validation pairs of two lists, else by seed; makes the synthetic cohort
    without --data.
    """
    from tqdm import tqdm

    from data import splits
    from data.phantom.cohort import write_cohort
    from data.subjects import find_subjects

    root = config.data
    if root is None:
        notice(f"no --data: using {SYNTHETIC_SUBJECTS} synthetic subjects in {SYNTHETIC}/")
        write_cohort(
            SYNTHETIC, SYNTHETIC_SUBJECTS, progress=lambda names: tqdm(names, "heads", disable=None)
        )
        root = SYNTHETIC
    cohort = find_subjects(root, config.recording, config.run)
    print(cohort.summary())
    if not all(lists):
        return splits.random_split(cohort.subjects, config.seed)
    train, validation = (splits.select(cohort, splits.read_list(path), path) for path in lists)
    splits.check_disjoint(train, validation, lists[1])
    return train, validation


def prepare_data(config: TrainConfig, subjects: tuple[list, list]) -> tuple:
    """Training and validation data, every file read and checked."""
    if not config.regime.slicewise:
        from data.dataset import prepared_datasets

        return prepared_datasets(*subjects, **config.data_options())
    from data.slices import prepared_slices
    from models.baselines.slicewise import slices_of

    return prepared_slices(
        *subjects, {"view": slices_of, **config.slice_options()}, **config.data_options()
    )


def build_loss(config: TrainConfig) -> Callable:
    """The objective of the model.

    Raises:
        InputError: an objective that is not there, or VGG-16's weights that cannot be read.
    """
    from losses import build_objective, build_slice_objective

    try:
        if config.regime.slicewise:
            return build_slice_objective(config.model, config.vgg)
        return build_objective(config.objective, **config.objective_options())
    except OSError as error:
        raise InputError(
            config.vgg, f"cannot be read ({error.strerror})", "give VGG-16's weights"
        ) from error
    except ValueError as error:
        source = config.vgg if config.regime.slicewise else "--objective"
        raise InputError(source, str(error), "see train_diff.py --help") from error


def train(process, config: TrainConfig, datasets: tuple, resumed: dict | None) -> None:
    """Build model and objective and train; runs in one process for each device."""
    import torch

    from models import build_model
    from training.checkpoint import LAST, restore_model
    from training.trainer import Trainer

    torch.manual_seed(config.seed + process.rank)
    if resumed:
        model = restore_model(config.run_folder / LAST, resumed, config)
    else:
        model = build_model(config.model, **config.model_options())
    Trainer(config, model, build_loss(config), *datasets, process, resumed).fit()


def main(argv: Sequence[str] | None = None) -> None:
    """Flags -> configuration -> subjects -> datasets -> run folder -> training."""
    given = vars(build_parser(__doc__).parse_args(argv))
    given |= {
        name: os.path.abspath(given[name])
        for name in ("data", "train_list", "val_list", "vgg")
        if name in given
    }
    resume = given.pop("resume", None)
    config, resumed = resumed_run(given, Path(resume)) if resume else (new_run(given), None)
    if resumed and resumed["epoch"] >= config.epochs:
        print(
            f"all {config.epochs} epochs of {config.run_folder} are done; train on with a larger --epochs"
        )
        return

    from training.distributed import choose_devices, launch
    from training.runlog import start_run_folder

    devices = choose_devices(config.gpus)
    if devices[0].type == "cpu":
        notice("no GPU: training on the CPU; `make demo` is the quick way to see a result")
    if config.regime.without_vgg and not config.vgg:
        notice(f"no --vgg: {config.regime.without_vgg}")
    folder = config.run_folder
    lists = (
        (folder / "train.txt", folder / "validation.txt")
        if resumed
        else (config.train_list, config.val_list)
    )
    subjects = choose_subjects(config, lists)
    config.check_batches(len(subjects[0]))
    datasets = prepare_data(config, subjects)
    start_run_folder(config, subjects)
    print(
        f"{len(subjects[0])} training and {len(subjects[1])} validation pairs; writing to {folder}"
    )
    launch(train, devices, config, datasets, resumed)
    print(f"done: {folder}; watch it with: tensorboard --logdir {folder / 'log'}")


def new_run(given: dict) -> TrainConfig:
    """The configuration of a new run, checked before any work is done.

    Raises:
        InputError: values that do not go together, or that no model or objective has.
    """
    from models.fusion_layer import fusion_strategy
    from models.variants import build_variant

    given.setdefault("name", time.strftime("run-%Y%m%d-%H%M%S"))
    config = TrainConfig.of(given)
    config.check()
    attempts = {
        "--switch": lambda: build_variant(config.variant, config.switched),
        "--fusion": lambda: config.fusion and fusion_strategy(config.fusion),
    }
    for flag, attempt in attempts.items():
        try:
            attempt()
        except ValueError as error:
            raise InputError(flag, str(error), "see train_diff.py --help") from error
    build_loss(config)  # for its complaints
    return config


def resumed_run(given: dict, path: Path) -> tuple[TrainConfig, dict]:
    """The configuration of a run to go on with, and its checkpoint.

    Raises:
        InputError: no such checkpoint, or a flag that would make it another run.
    """
    from training.checkpoint import LAST, read_own

    path = path / LAST if path.is_dir() else path
    content, config = read_own(path)
    return config.continued(given, path.parent), content


if __name__ == "__main__":
    run(main)
