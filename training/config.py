"""The one configuration of a training run: from the flags, into run folder and checkpoints.

A setting is written once, as a field of `TrainConfig` with its default, its help and its scope. The
flags and README's table of them (`training.flags`), and what `--resume` may change, come from
there. Nothing heavy is imported, so that `--help` stays quick.
"""

import os
from argparse import ArgumentTypeError
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from data.settings import CACHES, RECIPES, Cache, Preprocessing, Slicing
from data.subjects import LONGEST_NAME
from training.hyperparameters import (
    FUSION,
    NETWORKS,
    PUBLISHED,
    REGISTRATION,
    REGISTRATION_NETWORKS,
    SLICES,
    Hyperparameters,
)
from utils.cli import (
    cube_side,
    decay,
    device_numbers,
    item_count,
    loss_weight,
    non_negative_int,
    positive_float,
    positive_int,
    process_count,
    seed,
)
from utils.errors import InputError

PATCH = 4  # voxels a side of a token, which each further level doubles
MOST_LEVELS = 4
# A network that starts as a copy has something to lose: without a warm-up its held-out loss is 20 %
# above its start after four steps at 1e-4. With this many steps it never was, see docs/model.md.
COPY_WARMUP = 10
WITHOUT_GATE = "R10"  # in the paper variant, see `models.variants`
FROM_WEIGHTS = "weights"  # as initialisation: those of `training.weights`

# Models that a setting means something to.
ALL = tuple(PUBLISHED)
DC2FUSION = ("dc2fusion",)
SLICEWISE = tuple(name for name, method in PUBLISHED.items() if method.kind == SLICES)
REGISTERING = tuple(name for name, method in PUBLISHED.items() if method.kind == REGISTRATION)
FUSING = tuple(name for name in PUBLISHED if name not in REGISTERING)
VOLUMETRIC = (*DC2FUSION, *REGISTERING)
WITH_VGG = tuple(name for name, method in PUBLISHED.items() if method.without_vgg)


@dataclass(frozen=True)
class Setting:
    """What belongs to a field of `TrainConfig` beside name and default.

    Attributes:
        group: of flags, one of `training.flags.GROUPS`.
        help: what it decides, a phrase.
        shown: the default in words; None for its value.
        flag: None where it is called like the field.
        models: those that it means something to.
        changeable: whether a run may go on with another value; it would else be another run.
        options: of `ArgumentParser.add_argument`.
    """

    group: str
    help: str
    shown: str | None = None
    flag: str | None = None
    models: tuple[str, ...] = ALL
    changeable: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def setting(
    group: str,
    default: object,
    help: str,
    shown: str | None = None,
    flag: str | None = None,
    models: tuple[str, ...] = ALL,
    changeable: bool = False,
    **options,
) -> Any:
    """A field with a `Setting`; `options` are those of `ArgumentParser.add_argument`."""
    about = Setting(group, help, shown, flag, models, changeable, options)
    return field(default=default, metadata={"setting": about})


_data = partial(setting, "data")
_network = partial(setting, "network", models=VOLUMETRIC)
_fusion = partial(setting, "dc2fusion", models=DC2FUSION)
_weight = partial(setting, "loss", models=DC2FUSION, type=loss_weight, metavar="W")
_registration = partial(setting, "registration", models=REGISTERING)
_optimisation = partial(setting, "optimisation")
_run = partial(setting, "run")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. The defaults are DC2Fusion's published ones.

    They are from arXiv 2310.06291 and its code; 1 is the MRI and 2 the PET.
    """

    data: str | None = _data(
        None,
        "root of the pairs, in the published layout or in BIDS; to register, of the MRIs",
        shown="synthetic cohort",
        changeable=True,
        metavar="ROOT",
    )
    train_list: str | None = _data(
        None, "subjects to train on, one a line", shown="90 % by seed", metavar="FILE"
    )
    val_list: str | None = _data(
        None, "subjects to validate on", shown="10 % by seed", metavar="FILE"
    )
    recording: str | None = _data(
        None,
        "BIDS: which `rec-` label to take of several PETs",
        flag="--rec",
        models=FUSING,
    )
    run: str | None = _data(None, "BIDS: which `run-` number to take of several images")
    tracer: str = _data("FDG", "BIDS: which tracer's PETs to take", models=FUSING, metavar="NAME")
    size: int = _data(128, "voxels a side that the network sees", type=cube_side)
    recipe: str = _data(
        "paper",
        "recipe of the preprocessing",
        shown="as the variant",
        models=FUSING,
        choices=tuple(RECIPES),
    )
    synthesis: str | None = _data(
        None,
        "train on pairs drawn from label maps, procedural heads or both; with `--data`, of "
        "DC2Fusion, on both kinds of pairs",
        shown="off",
        models=VOLUMETRIC,
        choices=("labels", "heads", "both"),
    )
    labels: str | None = _data(
        None,
        "label maps for `--synthesis`, FreeSurfer's labels",
        shown="none",
        models=VOLUMETRIC,
        changeable=True,
        metavar="FOLDER",
    )
    drawn: int = _data(
        200, "pairs that `--synthesis` draws an epoch", models=VOLUMETRIC, type=item_count
    )
    drawn_sizes: tuple[int, ...] = _data(
        (),
        "voxels a side of the pairs that `--synthesis` draws, in turn, for a batch of one",
        shown="`--size`",
        models=DC2FUSION,
        nargs="+",
        type=cube_side,
        metavar="N",
    )
    cache: str = _data(
        "disk", "where preprocessed volumes are kept", changeable=True, choices=CACHES
    )
    workers: int = _data(2, "loading processes", changeable=True, type=process_count)

    model: str = setting(
        "model",
        "dc2fusion",
        "method to train: dc2fusion fuses volumes, transmorph and transmorph-diff register them, "
        "the others fuse slice by slice",
        choices=ALL,
    )

    network: str = _network(
        "paper",
        "size by name, of `--embed-dim`, `--depths` and `--head`; the last four are TransMorph's",
        shown="paper, to register standard",
        choices=(*NETWORKS, *REGISTRATION_NETWORKS),
    )
    embed_dim: int = _network(
        96,
        "E, width of the first stage, of DC2Fusion a multiple of 24",
        shown="the network's, 96",
        type=positive_int,
    )
    depths: tuple[int, ...] = _network(
        (2, 2, 6, 2),
        "blocks of each stage, one to four stages",
        shown="the network's, 2 2 6 2",
        nargs="+",
        type=positive_int,
        metavar="N",
    )
    variant: str = _network("paper", "reading of the method", choices=("paper", "released"))
    head: str = _fusion(
        "patches",
        "what the tokens become: patches of the stream maps, as published, or coefficients of the "
        "sources' bands of detail",
        shown="the network's, patches",
        choices=("patches", "bands"),
    )
    switched: tuple[str, ...] = _fusion(
        (),
        "differences R1 .. R10 of the variants that are switched alone",
        shown="none",
        flag="--switch",
        nargs="+",
        metavar="R",
    )
    fusion: str | None = _fusion(None, "fusion strategy", shown="the variant's own")
    init: str | None = _fusion(
        None,
        "first weights: a copy of the inputs, PyTorch's own, or those that come with the code, of "
        "which network, objective and recipe are then taken",
        shown="identity, for `released` default",
        choices=("identity", "default", FROM_WEIGHTS),
    )

    objective: str = setting(
        "loss",
        "ssim-gradient-intensity",
        "or `salient-additive`, which keeps what only one source shows, `salient-composite`, the "
        "same for all balances, or `lncc-ssim-l1`, the released one",
        models=DC2FUSION,
    )
    alpha1: float = _weight(2.0, "weight of structure, MRI")
    alpha2: float = _weight(1.0, "weight of structure, PET")
    beta1: float = _weight(2.0, "weight of edges, MRI")
    beta2: float = _weight(1.0, "weight of edges, PET")
    gamma1: float = _weight(2.0, "weight of intensity, MRI")
    gamma2: float = _weight(1.0, "weight of intensity, PET")

    balance: str = setting(
        "loss",
        "fixed",
        "`any` draws the share of the MRI for each step in place of the six weights",
        models=DC2FUSION,
        choices=("fixed", "any"),
    )

    plane: str = setting(
        "slices",
        "axial",
        "plane of the slices",
        models=SLICEWISE,
        choices=("axial", "coronal", "sagittal"),
    )
    vgg: str | None = setting(
        "slices",
        None,
        "VGG-16's weights, for the loss",
        shown="none",
        models=WITH_VGG,
        changeable=True,  # the file may have been moved
        metavar="FILE",
    )

    onto: str = _registration(
        "template",
        "what each head is brought onto: a template, or another subject of the data",
        choices=("template", "subjects"),
    )
    template: str | None = _registration(
        None,
        "T1 template in MNI152 space",
        shown="nilearn's packaged one",
        changeable=True,
        metavar="FILE",
    )
    voxel_mm: float | None = _registration(
        None, "edge of a voxel", shown="224 / `--size`", type=positive_float, metavar="MM"
    )
    flips: bool = _registration(True, "mirror both heads along axes by chance, as published")
    symmetric: bool = setting(
        "registration",
        False,
        "take half of the velocity minus that of the exchanged pair: a head and itself do not "
        "move, and the way back is the exact inverse",
        models=("transmorph-diff",),
    )
    similarity: str = _registration(
        "ncc",
        "likeness of warped and fixed head",
        shown="ncc, of transmorph-diff mse, with `--synthesis` none",
        choices=("ncc", "mse", "mind", "none"),
    )
    similarity_weight: float = _registration(
        1.0, "its weight", shown="1, of transmorph-diff's mse 10000", type=loss_weight, metavar="W"
    )
    regulariser: str = _registration(
        "diffusion",
        "what keeps the field smooth; prior is transmorph-diff's own",
        shown="diffusion, of transmorph-diff with mse prior",
        choices=("diffusion", "bending", "prior"),
    )
    regulariser_weight: float = _registration(1.0, "its weight", type=loss_weight, metavar="W")
    dice_weight: float = _registration(
        0.0,
        "weight of the overlap of labels, where all subjects have some",
        shown="0, with `--synthesis` 1",
        type=loss_weight,
        metavar="W",
    )

    epochs: int = _optimisation(
        500, "passes over the data", shown="published, 500", changeable=True, type=positive_int
    )
    batch_size: int = _optimisation(
        1, "items a step on each device", shown="published, 1", type=positive_int
    )
    lr: float = _optimisation(
        1e-4, "first learning rate", shown="published, 0.0001", type=positive_float
    )
    warmup: int = _optimisation(
        0,
        "steps in which the learning rate rises from 0",
        shown=f"{COPY_WARMUP}, with `--init default` 0",
        type=non_negative_int,
    )
    optimizer: str = _optimisation(
        "published",
        "the model's own, or Muon for the matrices beside it, which comes as far in fewer steps",
        shown="published, Adam",
        models=DC2FUSION,
        choices=("published", "muon"),
    )
    ema: float = _optimisation(
        0.0,
        "decay, a step, of a running mean of the weights, which is then validated and kept to fuse",
        shown="0, none",
        type=decay,
        metavar="DECAY",
    )
    seed: int = _optimisation(3407, "of everything that is drawn", type=seed)
    amp: bool = _optimisation(False, "bfloat16 autocast; losses stay in float32")
    compile: bool = _optimisation(False, "torch.compile", models=DC2FUSION, changeable=True)
    cuda_graph: bool = _optimisation(
        False,
        "one GPU: record a step once as a CUDA graph, which saves starting its kernels one by one",
        models=DC2FUSION,
    )
    sync_batchnorm: bool = _optimisation(
        False,
        "several processes: BatchNorm by all of their batches together, not by each one's own",
        models=FUSING,
    )
    checkpoint_activations: bool = _optimisation(
        False,
        "keep less for the backward pass and compute it again",
        models=DC2FUSION,
        changeable=True,
    )
    gpus: tuple[int, ...] = _optimisation(
        (0,),
        "CUDA devices; several train data-parallel",
        changeable=True,
        type=device_numbers,
        metavar="0,1",
    )

    name: str = _run("run", "folder of the run, below `--out`", shown="by date and time")
    out: str = _run("result", "folder of all runs and of the cache")
    val_every: int = _run(1, "epochs between validations", changeable=True, type=positive_int)
    best_by: str = _run(
        "ssim-min",
        "validation score that chooses `best.pt`",
        shown="ssim-min, to register similarity, with `--synthesis` dice",
        choices=("ssim-min", "released", "similarity", "dice"),
    )

    @property
    def run_folder(self) -> Path:
        """Where the run writes: configuration, log, scores and checkpoints."""
        return Path(self.out) / self.name

    @property
    def published(self) -> Hyperparameters:
        """How the model is published to be trained."""
        return PUBLISHED[self.model]

    @property
    def kind(self) -> str:
        """What the model is, see `training.hyperparameters`."""
        return self.published.kind

    @property
    def preprocessing(self) -> Preprocessing:
        """How pairs are brought to the network."""
        return Preprocessing(self.recipe, self.size)

    @property
    def pair_cache(self) -> Cache:
        """Where prepared pairs are kept."""
        return Cache(self.cache, Path(self.out) / "cache")

    @property
    def slicing(self) -> Slicing:
        """What a 2-D method is trained on."""
        pooled = self.published.inputs == ("image",)
        return Slicing(self.plane, self.published.patch, pooled)

    @property
    def weights(self) -> tuple[tuple[float, float], ...]:
        """Of structure, edges and intensity: an (MRI, PET) pair each."""
        alpha = self.alpha1, self.alpha2
        beta = self.beta1, self.beta2
        gamma = self.gamma1, self.gamma2
        return alpha, beta, gamma

    @classmethod
    def of(cls, given: dict[str, Any]) -> "TrainConfig":
        """The configuration of a new run.

        Args:
            given: values that the user gave. The others take the published value of the model or
                network, else the default; recipe and initialisation are those of the variant, and
                the warm-up is that of the initialisation.

        Raises:
            InputError: a value that means nothing to the model.
        """
        model = given.get("model", cls.model)
        refuse_foreign(model, given)
        weights = [name for name in WEIGHTS if name in given]
        if weights and given.get("balance") == "any":
            raise InputError(flag(weights[0]), "does not go with --balance any", "leave one out")
        published = PUBLISHED[model]
        variant = given.get("variant", cls.variant)
        values = {"epochs": published.epochs, "batch_size": published.batch_size}
        values["lr"] = published.lr
        if published.kind == REGISTRATION:
            return cls(**values | _registration_defaults(model, given) | _with_tuples(given))
        refuse_network(model, given.get("network"), NETWORKS)
        init = given.get("init", "identity" if variant == "paper" else "default")
        has_something_to_lose = init != "default" and published.kind == FUSION
        values |= NETWORKS[given.get("network", cls.network)] | {
            "recipe": variant,
            "init": init,
            "warmup": COPY_WARMUP if has_something_to_lose else 0,
        }
        return cls(**values | _with_tuples(given))

    def check(self) -> None:
        """Refuse, before a run begins, values that do not go together.

        Raises:
            InputError: naming the flag.
        """
        if not any(first or second for first, second in self.weights):
            problem = "all six loss weights are 0"
            raise InputError("--alpha1 .. --gamma2", problem, "give one above 0")
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise InputError("--name", f"{self.name!r} is no folder name", "leave paths to --out")
        if len(os.fsencode(self.name)) > LONGEST_NAME:
            raise InputError("--name", f"is longer than {LONGEST_NAME} bytes", "give a shorter one")
        for name, size in [
            ("--size", self.size),
            *(("--drawn-sizes", n) for n in self.drawn_sizes),
        ]:
            if size < 16:
                raise InputError(name, f"{size} is below 16 voxels", "give 16 or more")
        if self.kind == SLICES and self.cache == "none":
            problem = "none would read a volume for every slice"
            raise InputError("--cache", problem, "give disk or memory")
        if self.cuda_graph and (len(self.gpus) > 1 or self.compile):
            other = "--compile" if self.compile else "several --gpus"
            raise InputError("--cuda-graph", f"does not go with {other}", "leave one out")
        if self.best_by not in CHOOSING[self.kind]:
            problem = f"{self.best_by} is no score of --model {self.model}"
            raise InputError("--best-by", problem, f"give {' or '.join(CHOOSING[self.kind])}")
        if self.kind == REGISTRATION:
            self._check_registration()
        elif self.embed_dim % 24:
            problem = f"{self.embed_dim} is no multiple of 24"
            raise InputError("--embed-dim", problem, "give 24, 48, 72, 96, ...")
        if not 1 <= len(self.depths) <= MOST_LEVELS:
            problem = f"{len(self.depths)} stages"
            raise InputError("--depths", problem, f"give one to {MOST_LEVELS} numbers of blocks")
        if self.best_by == "released" and self.size <= 64:
            problem = f"the released score reads slice 64, and --size is {self.size}"
            raise InputError("--best-by", problem, "give a size above 64, 128 as published")
        if bool(self.train_list) != bool(self.val_list):
            raise InputError("--train-list", "goes with --val-list", "give both or neither")
        if self.drawn_sizes and self.batch_size > 1:
            problem = f"pairs of several sizes make no batch of {self.batch_size}"
            raise InputError("--drawn-sizes", problem, "give --batch-size 1")
        if self.synthesis in ("labels", "both") and not self.labels:
            problem = f"is missing beside --synthesis {self.synthesis}"
            raise InputError("--labels", problem, "give the folder of the label maps")

    def _check_registration(self) -> None:
        """Refuse what does not go together of a registration.

        Raises:
            InputError: naming the flag.
        """
        if len(self.depths) != MOST_LEVELS:
            raise InputError("--depths", f"{len(self.depths)} stages", f"give {MOST_LEVELS}")
        if self.regulariser == "prior" and self.model != "transmorph-diff":
            problem = f"prior is of a velocity, which --model {self.model} has none of"
            raise InputError("--regulariser", problem, "give diffusion or bending")
        aligning = self.similarity_weight if self.similarity != "none" else 0.0
        if not (aligning or self.dice_weight):
            problem = "has no weight, and --dice-weight is 0"
            raise InputError("--similarity", problem, "give one of the two a weight")
        if self.onto == "subjects" and self.template:
            raise InputError("--template", "does not go with --onto subjects", "leave it out")
        if self.synthesis and self.data:
            problem = f"does not go with --data for --model {self.model}"
            raise InputError("--synthesis", problem, "leave one out")
        labelled = self.synthesis or self.onto == "subjects"
        if (self.dice_weight or self.best_by == "dice") and not labelled:
            flag_name = "--dice-weight" if self.dice_weight else "--best-by"
            problem = "needs labels of both heads, and a template has none"
            raise InputError(flag_name, problem, "give --onto subjects or --synthesis")

    def check_folder(self) -> None:
        """Refuse a folder that holds a run, or anything else.

        Raises:
            InputError: it does.
        """
        if not self.run_folder.is_dir():
            return
        content = {name for name in os.listdir(self.run_folder) if not name.startswith(".")}
        # A run that ended before its first epoch leaves no checkpoint: it may start afresh.
        begun = "config.json" in content and not content & {"last.pt", "best.pt"}
        if content and not begun:
            problem = f"{self.run_folder} is not empty"
            raise InputError("--name", problem, "choose another name or --resume it")

    def check_batches(self, pairs: int, processes: int = 1) -> None:
        """Refuse a batch of one pair where DC2Fusion's deepest grid is one token.

        Args:
            pairs: how many there are to train on.
            processes: that share them.

        Raises:
            InputError: BatchNorm needs more than one token a channel.
        """
        one_token = PATCH * 2 ** (len(self.depths) - 1)  # the largest side that leaves just one
        if self.kind != FUSION or self.size > one_token:
            return
        share = -(-pairs // processes)  # of a process, rounded up
        if self.batch_size == 1 or share % self.batch_size == 1:
            problem = f"{self.size} leaves one token on the deepest grid for a batch of 1"
            remedy = f"give a size above {one_token} or another --batch-size for {share} pairs"
            raise InputError("--size", f"{problem}, and BatchNorm needs two", remedy)

    def continued(self, given: dict[str, Any], folder: Path) -> "TrainConfig":
        """This run's configuration to go on with.

        Args:
            given: values that the user gave this time.
            folder: the run's folder, which may have been moved.

        Raises:
            InputError: a value that would make it another run.
        """
        refuse_foreign(self.model, given)
        changed = {}
        for name, value in _with_tuples(given).items():
            started_with = getattr(self, name)
            # A loss must not gain the term that the weights are for.
            fixed = name == "vgg" and self.vgg is None
            if SETTINGS[name].changeable and not fixed:
                changed[name] = value
            elif value != started_with:
                problem = f"{value}, but the run was started with {started_with}"
                raise InputError(flag(name), problem, "leave the flag out")
        return replace(self, **changed, out=str(folder.parent), name=folder.name)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts and lists only, so that it fits JSON and a weights-only checkpoint."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`; a key from after it was written takes its default.

        What was written before there were initialisations is of a network without a gate.

        Raises:
            ValueError: for keys that are unknown or hold what no flag could have given; the message
            names them.
        """
        unknown = sorted(values.keys() - SETTINGS.keys())
        if unknown:
            raise ValueError(f"configuration keys are unknown: {', '.join(unknown)}")
        values = _with_tuples(values)
        for name, value in values.items():
            if not _is_possible(name, value):
                raise ValueError(f"configuration key {name} holds {value!r}")
        config = cls(**values)
        if "init" not in values and config.kind == FUSION and config.variant == "paper":
            return replace(config, switched=(*config.switched, WITHOUT_GATE))
        return config


# What chooses the best epoch of each kind of model; `training.validation` computes them.
CHOOSING = {
    FUSION: ("ssim-min", "released"),
    SLICES: ("ssim-min", "released"),
    REGISTRATION: ("similarity", "dice"),
}
WEIGHTS = ("alpha1", "alpha2", "beta1", "beta2", "gamma1", "gamma2")
SETTINGS: dict[str, Setting] = {f.name: f.metadata["setting"] for f in fields(TrainConfig)}


def _registration_defaults(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a registration takes where nothing is given, as published.

    Raises:
        InputError: a network of another model.
    """
    refuse_network(model, given.get("network"), REGISTRATION_NETWORKS)
    network = given.get("network", "standard")
    values = {"network": network} | REGISTRATION_NETWORKS[network]
    if given.get("synthesis"):
        return values | {"similarity": "none", "dice_weight": 1.0, "best_by": "dice"}
    values["best_by"] = "similarity"
    if model == "transmorph-diff" and given.get("similarity", "mse") == "mse":
        values |= {"similarity": "mse", "similarity_weight": 1e4, "regulariser": "prior"}
    return values


def refuse_network(model: str, network: str | None, known: Iterable[str]) -> None:
    """Refuse a network's name that is another model's.

    Raises:
        InputError: it is.
    """
    if network is not None and network not in known:
        problem = f"{network} is no size of --model {model}"
        raise InputError("--network", problem, f"give {', '.join(known)}")


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _is_possible(name: str, value: object) -> bool:
    """Whether a setting could have been given this value: by its flag, or as its default."""
    default, options = getattr(TrainConfig, name), SETTINGS[name].options
    if value is None or isinstance(default, bool):
        return type(value) is type(default)
    if isinstance(value, tuple) != isinstance(default, tuple):
        return False
    parts = value if "nargs" in options else (value,)
    texts = [",".join(map(str, p)) if isinstance(p, tuple) else str(p) for p in parts]
    read = options.get("type", str)
    try:
        meant = tuple(read(text) for text in texts)
    except (ValueError, ArgumentTypeError):
        return False
    choices = options.get("choices", meant)
    return meant == parts and all(part in choices for part in meant)


def flag(name: str) -> str:
    """The flag of a setting."""
    return SETTINGS[name].flag or "--" + name.replace("_", "-")


def refuse_foreign(model: str, given: Iterable[str]) -> None:
    """Refuse settings that mean nothing to a model.

    Args:
        model: a name in `PUBLISHED`.
        given: names of the settings that the user gave.

    Raises:
        InputError: naming the first such flag.
    """
    for name in given:
        if model not in SETTINGS[name].models:
            raise InputError(flag(name), f"means nothing to --model {model}", "leave the flag out")
