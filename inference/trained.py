"""A trained network, ready to fuse with.

From the weights that come with the code, a run folder, or a checkpoint, own or released.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from models import build_model
from models.balance import NEUTRAL
from models.balance import weights as balance_weights
from models.released import is_released, load_released
from models.variants import without_gate
from training import weights
from training.checkpoint import BEST, LAST, read, read_own, restore_model
from training.config import TrainConfig
from training.hyperparameters import FUSION, REGISTRATION, SLICES
from utils.errors import InputError, notice

RELEASED_OBJECTIVE = "lncc-ssim-l1:2:1"
NEWEST = "newest"  # in the place of a checkpoint


@dataclass(frozen=True)
class TrainedModel:
    """A network ready to fuse with, and how its inputs are to be prepared.

    Attributes:
        model: in eval mode, on the CPU.
        recipe: name of the preprocessing recipe.
        size: voxels a side that it was trained on.
        source: the file that it came from.
        description: one line for the user.
        name: of its model, see `models.build_model`.
        objective: of its training with all weights, see `inference.optimum.parse_objective`; None
            for 2-D methods, whose own losses have no volume to minimise over.
        refine: steps over the voxels that its output is to have, see `inference.optimum`.
    """

    model: nn.Module
    recipe: str
    size: int
    source: Path
    description: str
    name: str = "dc2fusion"
    objective: str | None = None
    refine: int = 0

    @property
    def turns(self) -> bool:
        """Whether it fuses at any balance."""
        return getattr(self.model, "balance", None) is not None

    def turned_to(self, balance: float) -> "TrainedModel":
        """The same network, which fuses with this share of the MRI from now on.

        Args:
            balance: 0 to 1.

        Raises:
            InputError: it was trained for one balance.
        """
        if not self.turns:
            problem = f"{self.source} was trained for one balance"
            raise InputError("--balance", problem, "leave the flag out")
        self.model.default_balance = balance
        return replace(self, objective=objective_at(self.objective, balance))


def objective_at(objective: str, balance: float) -> str:
    """An objective with the weights of a balance in the place of its own."""
    weights = ":".join(f"{weight:g}" for weight in balance_weights(balance))
    return f"{objective.split(':')[0]}:{weights}"


def choose_checkpoint(given: Path | None, root: Path) -> Path:
    """What --checkpoint means: a path, `NEWEST`, or by default the weights that come with the code.

    Args:
        root: folder of all runs.

    Raises:
        InputError: there is no run.
    """
    if given is None:
        notice(f"no --checkpoint: using the weights that come with the code, {weights.SHIPPED}")
        return weights.SHIPPED
    return newest_run(root) if str(given) == NEWEST else given


def newest_run(root: Path) -> Path:
    """The run folder of DC2Fusion below `root` with the newest checkpoint; says which one it is.

    Raises:
        InputError: there is none.
    """
    checkpoints = [path for path in root.glob(f"*/{LAST}") if _model_of(path.parent) == "dc2fusion"]
    if not checkpoints:
        problem = f"{NEWEST}, but there is no run of DC2Fusion under {root}/"
        remedy = "train first (python train_diff.py, or make demo), or leave the flag out"
        raise InputError("--checkpoint", problem, remedy)
    newest = max(checkpoints, key=lambda path: (path.stat().st_mtime, path)).parent
    notice(f"--checkpoint {NEWEST}: using {newest}")
    return newest


def _model_of(run: Path) -> str:
    """The model that a run folder says it is of; DC2Fusion where it does not say."""
    try:
        return json.loads((run / "config.json").read_text())["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "dc2fusion"


def is_own(path: Path) -> bool:
    """Whether a path is a run folder, a checkpoint or weights of this project."""
    if path.is_dir():
        return any((path / name).is_file() for name in (BEST, LAST, "config.json"))
    if path.suffix == weights.SUFFIX:
        return path.is_file()
    try:
        return "format" in read(path)
    except InputError:
        return False


def locate(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the best, else the last one of a run folder.

    Raises:
        InputError: a folder without a checkpoint.
    """
    if not path.is_dir():
        return path
    for name in (BEST, LAST):
        if (path / name).is_file():
            return path / name
    problem = f"no {BEST} or {LAST} in this folder"
    raise InputError(path, problem, "give a run folder of train_diff.py")


def load_model(path: Path, variant: str | None = None, size: int = 128) -> TrainedModel:
    """Load a network to fuse with.

    Args:
        path: a run folder, an own checkpoint, weights as `training.weights` writes them, or a
            checkpoint of the released code.
        variant: must agree with an own checkpoint of DC2Fusion; for a released one "released" is
            taken if None.
        size: what a released checkpoint was trained on; an own one knows.

    Raises:
        InputError: as `read`; another architecture; a variant that the checkpoint was not trained
            as.
    """
    path = locate(path)
    if path.suffix == weights.SUFFIX:
        found = weights.read(path)
        _check_variant(path, found.config, variant)
        trained = _own(path, found.network(), found.config, f"of {found.record['about']['date']}")
        trained = replace(trained, refine=found.refine)
        return trained if found.balance is None else trained.turned_to(found.balance)
    content = read(path)
    if is_released(content):
        return _load_released(path, content, variant or "released", size)
    if "format" not in content:
        remedy = (
            "give a DC2Fusion checkpoint, or name another method's weights by --weights METHOD=FILE"
        )
        raise InputError(path, "its tensors are not DC2Fusion's", remedy)
    content, config = read_own(path)
    if config.kind == REGISTRATION:
        problem = f"is {config.model}, which registers and does not fuse"
        raise InputError(path, problem, "give a network that fuses, or prepare.py --warp this one")
    _check_variant(path, config, variant)
    model = restore_model(path, content, config)
    trained = _own(path, model.eval(), config, f"epoch {content['epoch']}")
    return trained.turned_to(NEUTRAL) if config.balance == "any" else trained


def _check_variant(path: Path, config: TrainConfig, variant: str | None) -> None:
    """Refuse another variant than a network was trained as."""
    if variant and config.kind == SLICES:
        problem = f"{path} is {config.model}, which has none"
        raise InputError("--variant", problem, "leave the flag out")
    if variant not in (None, config.variant):
        problem = f"{path} was trained as {config.variant}, not {variant}"
        raise InputError("--variant", problem, "leave the flag out")


def _own(path: Path, model: nn.Module, config: TrainConfig, state: str) -> TrainedModel:
    """A network of this project, with what its configuration says of it.

    Args:
        state: how far it was trained, for the user.
    """
    blocks = "-".join(map(str, config.depths))
    form = f"{config.variant} variant, E={config.embed_dim}, {blocks} blocks"
    if config.kind == SLICES:
        form = f"on {config.plane} slices"
    description = f"{path}: {config.model}, {form}, {state}"
    return TrainedModel(
        model,
        config.recipe,
        config.size,
        path,
        description,
        config.model,
        _objective_of(config) if config.kind == FUSION else None,
    )


def _objective_of(config: TrainConfig) -> str:
    """Name and six weights, alpha1 first."""
    weights = [weight for pair in config.weights for weight in pair]
    return ":".join([config.objective, *(f"{weight:g}" for weight in weights)])


def _load_released(path: Path, state: dict, variant: str, size: int) -> TrainedModel:
    weight = state["swin.patch_embed.proj.weight"]
    switched = without_gate(variant)  # which these weights were trained without
    recipe = "released" if variant == "released" else "paper"
    try:
        model = build_model(
            "dc2fusion", embed_dim=int(weight.shape[0]), variant=variant, switched=switched
        )
        skipped = load_released(model, state)
    except (ValueError, AttributeError) as error:
        raise InputError(path, str(error), "give a checkpoint of the released DC2Fusion") from error
    description = (
        f"{path}: weights of the released code as {variant} variant, E={weight.shape[0]}; "
        f"{len(skipped)} tensors skipped that it never uses (cross_attn.proj, concat_back_dim.0)"
    )
    return TrainedModel(model.eval(), recipe, size, path, description, objective=RELEASED_OBJECTIVE)
