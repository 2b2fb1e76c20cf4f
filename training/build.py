"""What a configuration stands for: its network, its objective, its data sets."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from data.dataset import PairDataset
from data.registration import HeadPairs, Space, read_target
from data.slices import SliceDataset
from data.subjects import Head, Subject
from data.synthesis.dataset import MixedPairs, SyntheticPairs, find_anatomies
from data.synthesis.heads import SyntheticHeads
from losses import build_objective, build_slice_objective
from losses.registration.objective import RegistrationObjective
from models import build_model
from models.balance import weights as balance_weights
from models.baselines.slicewise import slices_of
from models.fusion_layer import fusion_strategy
from models.registration import build_registration
from models.registration.warp import warp
from models.variants import build_variant
from training.config import FROM_WEIGHTS, TrainConfig
from training.hyperparameters import REGISTRATION, SLICES
from utils.archives import check_archive
from utils.errors import InputError

HELP = "see train_diff.py --help"
HELD_OUT = 6  # one of so many anatomies is not trained on
VALIDATED = 12  # pairs that are drawn of those

TrainingPairs = PairDataset | SyntheticPairs | MixedPairs
Subjects = Sequence[Subject] | Sequence[Head]


def build_network(config: TrainConfig) -> nn.Module:
    """The untrained network, `(mri, pet) -> fused` or `(moving, fixed) -> (warped, displacement)`.

    Raises:
        ValueError: a variant, a difference or a fusion strategy that is not there, or a width that
            the heads of the attention do not divide.
    """
    if config.kind == REGISTRATION:
        shape = (config.size,) * 3
        sizes = config.network, config.embed_dim, config.depths
        return build_registration(config.model, shape, *sizes, config.variant)
    if config.kind == SLICES:
        return build_model(config.model, plane=config.plane)
    return build_model(
        config.model,
        embed_dim=config.embed_dim,
        depths=config.depths,
        variant=config.variant,
        switched=config.switched,
        fusion=config.fusion,
        init="default" if config.init == FROM_WEIGHTS else config.init,  # and then loaded into
        balanced=config.balance == "any",
        checkpoint_activations=config.checkpoint_activations,
    )


def build_loss(config: TrainConfig, balance: float | None = None) -> Callable:
    """The objective: `(fused, mri, pet)` or `(network, *images)` -> total, terms.

    The second form is of 2-D methods and of registration.

    Args:
        balance: share of the MRI, which decides the weights in the place of the configuration.

    Raises:
        InputError: an objective that is not there, or VGG-16's weights that cannot be read.
    """
    if config.kind == REGISTRATION:
        weights = config.similarity_weight, config.regulariser_weight, config.dice_weight
        names = config.similarity, config.regulariser
        return RegistrationObjective(warp, *names, weights, config.variant)
    if config.kind == SLICES:
        return _build_slice_loss(config)
    try:
        weights = config.weights if balance is None else (balance_weights(balance),) * 3
        return build_objective(config.objective, *weights)
    except ValueError as error:
        raise InputError("--objective", str(error), HELP) from error


def _build_slice_loss(config: TrainConfig) -> Callable:
    if config.vgg:
        check_archive(config.vgg)
    try:
        return build_slice_objective(config.model, config.vgg)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise InputError(config.vgg, problem, "give VGG-16's weights") from error
    except ValueError as error:
        raise InputError(config.vgg, str(error), HELP) from error


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
    drawn = SyntheticPairs(anatomies, config.size, config.drawn, config.seed)
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


def check_names(config: TrainConfig) -> None:
    """Refuse, before any data are read, names that no network or objective has.

    Raises:
        InputError: naming the flag.
    """
    if config.kind == REGISTRATION:
        try:
            build_network(replace(config, size=32))
        except ValueError as error:
            raise InputError("--embed-dim", str(error), HELP) from error
        return
    try:
        build_variant(config.variant, config.switched)
    except ValueError as error:
        raise InputError("--switch", str(error), HELP) from error
    try:
        if config.fusion:
            fusion_strategy(config.fusion)
    except ValueError as error:
        raise InputError("--fusion", str(error), HELP) from error
    build_loss(config)
