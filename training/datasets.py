"""What a configuration trains and validates on: pairs, slices, heads, real ones and drawn ones."""

from collections.abc import Sequence

from data.dataset import PairDataset
from data.registration import HeadPairs
from data.slices import SliceDataset
from data.subjects import Head, Subject
from data.synthesis.anatomy import find_anatomies
from data.synthesis.dataset import MixedPairs, SyntheticPairs
from data.synthesis.heads import SyntheticHeads
from data.template_space import Space, read_target
from models.baselines.slicewise import slices_of
from training.config import TrainConfig
from training.hyperparameters import REGISTRATION, SLICES
from utils.errors import InputError

HELD_OUT = 6  # one of so many anatomies is not trained on
VALIDATED = 12  # pairs that are drawn of those

TrainingPairs = PairDataset | SyntheticPairs | MixedPairs
Subjects = Sequence[Subject] | Sequence[Head]


def build_datasets(
    config: TrainConfig, train: Subjects, validation: Subjects
) -> tuple[TrainingPairs, TrainingPairs]:
    """What is trained on, pairs or slices, and the pairs to validate on; all of it read and cached.

    Raises:
        InputError: for a bad file.
    """
    if config.kind == REGISTRATION:
        return _build_heads(config, train, validation)
    if config.synthesis:
        return _build_synthetic(config, train, validation)
    options = config.preprocessing, config.pair_cache, config.seed
    if config.kind == SLICES:
        training = SliceDataset(train, slices_of, config.slicing, *options)
    else:
        training = PairDataset(train, *options, augment=True)
    held_out = PairDataset(validation, *options)
    training.prepare("training slices" if config.kind == SLICES else "training pairs")
    held_out.prepare("validation pairs")
    return training, held_out


def _build_synthetic(
    config: TrainConfig, train: Sequence[Subject], validation: Sequence[Subject]
) -> tuple[TrainingPairs, TrainingPairs]:
    """Pairs drawn anew in every epoch, mixed with real ones; held out are real or drawn ones.

    Anatomies are held out, too, where there are no real pairs: every sixth one.
    """
    anatomies = find_anatomies(config.synthesis, config.labels, config.pair_cache.folder)
    apart = anatomies[::HELD_OUT]
    if not train:
        del anatomies[::HELD_OUT]
    sizes = config.drawn_sizes or config.size
    drawn = SyntheticPairs(anatomies, sizes, config.drawn, config.seed)
    if not train:
        return drawn, SyntheticPairs(apart, config.size, VALIDATED, config.seed + 1)
    options = config.preprocessing, config.pair_cache, config.seed
    real = PairDataset(train, *options, augment=True)
    held_out = PairDataset(validation, *options)
    real.prepare("training pairs")
    held_out.prepare("validation pairs")
    return MixedPairs(real, drawn), held_out


def _build_heads(
    config: TrainConfig, train: Sequence[Head], validation: Sequence[Head]
) -> tuple[HeadPairs | SyntheticHeads, HeadPairs | SyntheticHeads]:
    """Pairs of heads to register: of a data set, or drawn from anatomies of which some are kept.

    Raises:
        InputError: for a bad file, or labels that are asked for and not there.
    """
    space = Space(config.size, config.voxel_mm)
    if config.synthesis:
        anatomies = find_anatomies(config.synthesis, config.labels, config.pair_cache.folder)
        apart = anatomies[::HELD_OUT]
        del anatomies[::HELD_OUT]
        anatomies = anatomies or apart  # of one label map alone
        drawn = SyntheticHeads(anatomies, space, config.drawn, config.seed)
        return drawn, SyntheticHeads(apart, space, VALIDATED, config.seed + 1)
    target = read_target(config.template, space) if config.onto == "template" else None
    options = space, target, config.pair_cache, config.seed
    training = HeadPairs(train, *options, training=True, flips=config.flips)
    held_out = HeadPairs(validation, *options)
    asked = config.dice_weight or config.best_by == "dice"
    if asked and not (training.labelled and held_out.labelled):
        name = "--dice-weight" if config.dice_weight else "--best-by"
        problem = "needs labels of all subjects, and some have none"
        raise InputError(name, problem, "leave it out, or give label maps (docs/registration.md)")
    training.prepare("training heads")
    held_out.prepare("validation heads")
    return training, held_out
