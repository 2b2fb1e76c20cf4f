"""What a training starts from: a new run or one to go on with, and its subjects."""

import time
from pathlib import Path

from tqdm import tqdm

from data import splits
from data.phantom.cohort import write_cohort
from data.subjects import Head, Subject, find_heads, find_subjects
from training import build, checkpoint, weights
from training.config import FROM_WEIGHTS, TrainConfig
from training.hyperparameters import REGISTRATION
from utils.errors import InputError, notice
from utils.ranks import may_restart

SYNTHETIC = Path("synthetic")  # where the synthetic cohort is made
SYNTHETIC_SUBJECTS = 8

Split = (
    tuple[list[Subject], list[Subject]] | tuple[list[Head], list[Head]]
)  # training and validation


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


def lists_of(config: TrainConfig, resumed: dict | None) -> tuple[Path | str, Path | str] | None:
    """The files with the subjects to train and to validate on: a run goes on with its own."""
    if resumed:
        return config.run_folder / splits.TRAIN_FILE, config.run_folder / splits.VALIDATION_FILE
    if config.train_list and config.val_list:
        return config.train_list, config.val_list
    return None


def choose_subjects(config: TrainConfig, lists: tuple[Path | str, Path | str] | None) -> Split:
    """The subjects of two lists, else split by seed; makes the synthetic cohort without --data."""
    root = config.data
    if root is None and config.synthesis:
        return [], []
    if root is None:
        notice(f"no --data: using {SYNTHETIC_SUBJECTS} synthetic subjects in {SYNTHETIC}/")
        write_cohort(
            SYNTHETIC,
            SYNTHETIC_SUBJECTS,
            progress=lambda names: tqdm(names, "heads", disable=None),
        )
        root = SYNTHETIC
    if config.kind == REGISTRATION:
        cohort = find_heads(root, config.run)
    else:
        cohort = find_subjects(root, config.recording, config.run, config.tracer)
    print(cohort.summary())
    if lists is None:
        return splits.random_split(cohort.subjects, config.seed)
    train, validation = (splits.select(cohort, splits.read_list(path), path) for path in lists)
    splits.check_disjoint(train, validation, lists[1])
    return train, validation
