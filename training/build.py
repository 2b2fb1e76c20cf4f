"""What a configuration stands for: its network, its objective; see `training.datasets`, too."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from losses import build_objective, build_slice_objective
from losses.registration.objective import RegistrationObjective
from models import build_model
from models.balance import weights as balance_weights
from models.fusion_layer import fusion_strategy
from models.registration import build_registration
from models.registration.warp import warp
from models.variants import build_variant
from training.config import FROM_WEIGHTS, TrainConfig
from training.hyperparameters import REGISTRATION, SLICES
from utils.archives import check_archive
from utils.errors import InputError

HELP = "see train_diff.py --help"


def build_network(config: TrainConfig) -> nn.Module:
    """The untrained network, `(mri, pet) -> fused` or `(moving, fixed) -> (warped, displacement)`.

    Raises:
        ValueError: a variant, a difference or a fusion strategy that is not there, or a width that
            the heads of the attention do not divide.
    """
    if config.kind == REGISTRATION:
        shape = (config.size,) * 3
        sizes = config.network, config.embed_dim, config.depths
        return build_registration(config.model, shape, *sizes, config.variant, config.symmetric)
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
        head=config.head,
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
