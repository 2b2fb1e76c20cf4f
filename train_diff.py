"""Train DC2Fusion on pairs of MRI and PET.

The published command, here on the synthetic cohort because no --data is given:
    python train_diff.py --alpha1 2 --alpha2 1 --beta1 2 --beta2 1 --gamma1 2 --gamma2 1 --gpus 0
On your own data, four GPUs, a run called adni:
    python train_diff.py --data /data/adni --gpus 0,1,2,3 --name adni
Going on after an interruption:
    python train_diff.py --resume result/adni
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.cli import (
    InputError,
    Parser,
    device_numbers,
    loss_weight,
    non_negative_int,
    notice,
    positive_float,
    positive_int,
    run,
    seed,
)
from utils.config import TrainConfig

SYNTHETIC = Path("synthetic")  # where the synthetic cohort is made
SYNTHETIC_SUBJECTS = 8
TERMS = {"alpha": "structure", "beta": "edges", "gamma": "intensity"}


def build_parser() -> Parser:
    """The flags; a flag that is not given takes the value of `TrainConfig`, which holds the published ones."""
    default = TrainConfig()
    parser = Parser(prog="train_diff.py", description=__doc__, argument_default=argparse.SUPPRESS)

    data = parser.add_argument_group("data")
    data.add_argument("--data", metavar="ROOT", help="data set in the published layout or in BIDS (default: synthetic)")
    data.add_argument("--train-list", metavar="FILE", help="subjects to train on, one a line")
    data.add_argument("--val-list", metavar="FILE", help="subjects to validate on (default: 10 %% by --seed)")
    data.add_argument("--rec", dest="recording", help="BIDS: which rec- label to take of several PETs")
    data.add_argument("--run", help="BIDS: which run- number to take of several images")
    data.add_argument("--size", type=positive_int, help=f"voxels a side the network sees ({default.size})")
    data.add_argument("--recipe", choices=("paper", "released"), help="preprocessing (as --variant)")
    data.add_argument("--cache", choices=("disk", "memory", "none"), help=f"preprocessed volumes ({default.cache})")
    data.add_argument("--workers", type=non_negative_int, help=f"loading processes ({default.workers})")

    model = parser.add_argument_group("model")
    model.add_argument("--embed-dim", type=positive_int, help=f"E, a multiple of 24 ({default.embed_dim})")
    model.add_argument("--variant", choices=("paper", "released"), help=f"reading of the method ({default.variant})")
    model.add_argument("--switch", dest="switched", nargs="+", metavar="R", help="differences R1 .. R9 to switch alone")
    model.add_argument("--fusion", help="fusion strategy (the variant's own)")

    loss = parser.add_argument_group("loss", "1 = MRI, 2 = PET; published weights are 2 and 1")
    loss.add_argument("--objective", help=f"or lncc-ssim-l1 ({default.objective})")
    for name, term in TERMS.items():
        for number, source in ((1, "MRI"), (2, "PET")):
            text = f"{term}, {source} ({getattr(default, f'{name}{number}'):g})"
            loss.add_argument(f"--{name}{number}", type=loss_weight, metavar="W", help=text)

    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--epochs", type=positive_int, help=f"({default.epochs})")
    optimisation.add_argument("--batch-size", type=positive_int, help=f"a device ({default.batch_size})")
    optimisation.add_argument("--lr", type=positive_float, help=f"first learning rate ({default.lr})")
    optimisation.add_argument("--seed", type=seed, help=f"({default.seed})")
    optimisation.add_argument("--amp", action=argparse.BooleanOptionalAction, help="bfloat16 autocast (off)")
    optimisation.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (off)")
    optimisation.add_argument("--gpus", type=device_numbers, metavar="0,1", help="CUDA devices (0)")

    output = parser.add_argument_group("run")
    output.add_argument("--name", help="the run's folder below --out (run-<date>-<time>)")
    output.add_argument("--out", help=f"({default.out})")
    output.add_argument("--val-every", type=positive_int, help=f"epochs between validations ({default.val_every})")
    output.add_argument(
        "--best-by", choices=("ssim-min", "released"), help=f"what best.pt is best by ({default.best_by})"
    )
    output.add_argument("--resume", metavar="RUN", help="go on with this run folder or checkpoint")
    return parser


def choose_subjects(config: TrainConfig, lists: tuple) -> tuple[list, list]:
    """The training and the validation pairs of two lists, else by seed; makes the synthetic cohort without --data."""
    from tqdm import tqdm

    from data import splits
    from data.phantom import write_cohort
    from data.subjects import find_subjects

    root = config.data
    if root is None:
        notice(f"no --data: using {SYNTHETIC_SUBJECTS} synthetic subjects in {SYNTHETIC}/")
        write_cohort(SYNTHETIC, SYNTHETIC_SUBJECTS, progress=lambda names: tqdm(names, "heads", disable=None))
        root = SYNTHETIC
    cohort = find_subjects(root, config.recording, config.run)
    print(cohort.summary())
    if not all(lists):
        return splits.random_split(cohort.subjects, config.seed)
    train, validation = (splits.select(cohort, splits.read_list(path), path) for path in lists)
    splits.check_disjoint(train, validation, lists[1])
    return train, validation


def train(process, config: TrainConfig, datasets: tuple, resumed: dict | None) -> None:
    """Build model and objective and train; runs in one process for each device."""
    import torch

    from losses import build_objective
    from models import build_model
    from utils.checkpoint import LAST, restore_model
    from utils.trainer import Trainer

    torch.manual_seed(config.seed + process.rank)
    if resumed:
        model = restore_model(config.run_folder / LAST, resumed, config)
    else:
        model = build_model("dc2fusion", **config.model_options())
    objective = build_objective(config.objective, **config.objective_options())
    Trainer(config, model, objective, *datasets, process, resumed).fit()


def main(argv: Sequence[str] | None = None) -> None:
    """Flags -> configuration -> subjects -> datasets -> run folder -> training."""
    given = vars(build_parser().parse_args(argv))
    given |= {name: os.path.abspath(given[name]) for name in ("data", "train_list", "val_list") if name in given}
    resume = given.pop("resume", None)
    config, resumed = resumed_run(given, Path(resume)) if resume else (new_run(given), None)
    if resumed and resumed["epoch"] >= config.epochs:
        print(f"all {config.epochs} epochs of {config.run_folder} are done; train on with a larger --epochs")
        return

    from data.dataset import prepared_datasets
    from utils.distributed import choose_devices, launch
    from utils.runlog import start_run_folder

    devices = choose_devices(config.gpus)
    if devices[0].type == "cpu":
        notice("no GPU: training on the CPU; `make demo` is the quick way to see a result")
    folder = config.run_folder
    lists = (folder / "train.txt", folder / "validation.txt") if resumed else (config.train_list, config.val_list)
    subjects = choose_subjects(config, lists)
    config.check_batches(len(subjects[0]))
    datasets = prepared_datasets(*subjects, **config.data_options())
    start_run_folder(config, subjects)
    print(f"{len(subjects[0])} training and {len(subjects[1])} validation pairs; writing to {folder}")
    launch(train, devices, config, datasets, resumed)
    print(f"done: {folder}; watch it with: tensorboard --logdir {folder / 'log'}")


def new_run(given: dict) -> TrainConfig:
    """The configuration of a new run, checked before any work is done.

    Raises:
        InputError: values that do not go together, or that no model or objective has.
    """
    from losses import build_objective
    from models.fusion_layer import fusion_strategy
    from models.variants import build_variant

    given.setdefault("name", time.strftime("run-%Y%m%d-%H%M%S"))
    given.setdefault("recipe", given.get("variant", TrainConfig.variant))
    config = replace(TrainConfig(), **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    config.check()
    attempts = {
        "--switch": lambda: build_variant(config.variant, config.switched),
        "--fusion": lambda: config.fusion and fusion_strategy(config.fusion),
        "--objective": lambda: build_objective(config.objective),
    }
    for flag, attempt in attempts.items():
        try:
            attempt()
        except ValueError as error:
            raise InputError(flag, str(error), "see train_diff.py --help") from error
    return config


def resumed_run(given: dict, path: Path) -> tuple[TrainConfig, dict]:
    """The configuration of a run to go on with, and its checkpoint.

    Raises:
        InputError: no such checkpoint, or a flag that would make it another run.
    """
    from utils.checkpoint import LAST, read_own

    path = path / LAST if path.is_dir() else path
    content, config = read_own(path)
    return config.continued(given, path.parent), content


if __name__ == "__main__":
    run(main)
