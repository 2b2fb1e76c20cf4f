"""What a configuration stands for: its network, its objective, its data sets."""

from collections.abc import Callable, Sequence

from torch import nn

from data.dataset import PairDataset
from data.slices import SliceDataset
from data.subjects import Subject
from data.synthesis.dataset import MixedPairs, SyntheticPairs, find_anatomies
from losses import build_objective, build_slice_objective
from models import build_model
from models.balance import weights as balance_weights
from models.baselines.slicewise import slices_of
from models.fusion_layer import fusion_strategy
from models.variants import build_variant
from training.config import FROM_WEIGHTS, TrainConfig
from utils.archives import check_archive
from utils.errors import InputError

HELP = "see train_diff.py --help"
HELD_OUT = 6  # one of so many anatomies is not trained on
VALIDATED = 12  # pairs that are drawn of those

TrainingPairs = PairDataset | SyntheticPairs | MixedPairs


def build_network(config: TrainConfig) -> nn.Module:
    """The untrained network, `(mri, pet) -> fused`.

    Raises:
        ValueError: a variant, a difference or a fusion strategy that is not there.
    """
    if config.slicewise:
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
    """The objective: `(fused, mri, pet)` or, of a 2-D method, `(method, *images)` -> total, terms.

    Args:
        balance: share of the MRI, which decides the weights in the place of the configuration.

    Raises:
        InputError: an objective that is not there, or VGG-16's weights that cannot be read.
    """
    if config.slicewise:
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
    config: TrainConfig, train: Sequence[Subject], validation: Sequence[Subject]
) -> tuple[TrainingPairs, TrainingPairs]:
    """What is trained on, pairs or slices, and the pairs to validate on; all of it read and cached.

    Raises:
        InputError: for a bad file.
    """
    if config.synthesis:
        return _build_synthetic(config, train, validation)
    options = config.preprocessing, config.pair_cache, config.seed
    if config.slicewise:
        training = SliceDataset(train, slices_of, config.slicing, *options)
    else:
        training = PairDataset(train, *options, augment=True)
    held_out = PairDataset(validation, *options)
    training.prepare("training slices" if config.slicewise else "training pairs")
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


def check_names(config: TrainConfig) -> None:
    """Refuse, before any data are read, names that no network or objective has.

    Raises:
        InputError: naming the flag.
    """
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
