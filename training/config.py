"""The one configuration of a training run: from the flags, into the run folder and every
checkpoint.
"""

import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from training.hyperparameters import REGIMES, Regime, flag, refuse_foreign
from utils.errors import InputError

# What may change when a run goes on; anything else would make it another run.
CHANGEABLE = {
    "data",
    "epochs",
    "workers",
    "cache",
    "val_every",
    "gpus",
    "compile",
    "checkpoint_activations",
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. The defaults are DC2Fusion's published ones (arXiv 2310.06291
    and its code).

    Attributes:
        data: root of the data set; None for the synthetic cohort.
        train_list, val_list: files with subject names; None for a 90/10 split by `seed`.
        recording, run: which of several BIDS candidates to take.
        model: what is trained, a name in `training.hyperparameters.REGIMES`. The next four, and
            from objective to gamma2, are DC2Fusion's alone; plane and vgg are of the 2-D methods.
        embed_dim: E, the width of the first stage.
        variant: "paper" or "released" network; see `models.variants`.
        switched: differences between the variants that are switched alone.
        fusion: fusion strategy, None for the variant's own.
        recipe: "paper" or "released" preprocessing; see `data.transforms`.
        objective: see `losses.objective`.
        alpha1 .. gamma2: weights of its three terms, 1 for the MRI, 2 for the PET.
        plane: of the slices that a 2-D method sees.
        vgg: file of VGG-16's weights, for the 2-D methods whose loss has a part for it.
        size: voxels a side that the network sees.
        epochs, batch_size, lr, seed: as usual; see the model's regime for the course of the
            learning rate.
        amp: bfloat16 autocast; losses stay in float32.
        compile: run the network through torch.compile.
        checkpoint_activations: keep less for the backward pass and compute it again.
        workers: processes that load data.
        cache: "disk", "memory" or "none", for the deterministic part of the preprocessing.
        val_every: epochs between validations.
        best_by: the validation score that chooses `best.pt`, see `training.trainer.BEST_BY`.
        gpus: CUDA devices; more than one trains data-parallel.
        name: the run's folder below `out`.
    """

    data: str | None = None
    train_list: str | None = None
    val_list: str | None = None
    recording: str | None = None
    run: str | None = None
    model: str = "dc2fusion"
    embed_dim: int = 96
    variant: str = "paper"
    switched: tuple[str, ...] = ()
    fusion: str | None = None
    recipe: str = "paper"
    objective: str = "ssim-gradient-intensity"
    alpha1: float = 2.0
    alpha2: float = 1.0
    beta1: float = 2.0
    beta2: float = 1.0
    gamma1: float = 2.0
    gamma2: float = 1.0
    plane: str = "axial"
    vgg: str | None = None
    size: int = 128
    epochs: int = 500
    batch_size: int = 1
    lr: float = 1e-4
    seed: int = 3407
    amp: bool = False
    compile: bool = False
    checkpoint_activations: bool = False
    workers: int = 2
    cache: str = "disk"
    val_every: int = 1
    best_by: str = "ssim-min"
    gpus: tuple[int, ...] = (0,)
    name: str = "run"
    out: str = "result"

    @property
    def run_folder(self) -> Path:
        """Where the run writes: configuration, log, scores and checkpoints."""
        return Path(self.out) / self.name

    @property
    def regime(self) -> Regime:
        """How the model is trained."""
        return REGIMES[self.model]

    @classmethod
    def of(cls, given: dict) -> "TrainConfig":
        """The configuration of a new run: what was given, else the model's published values, else
        the defaults.

        Raises:
            InputError: a value that means nothing to the model.
        """
        model = given.get("model", cls.model)
        refuse_foreign(model, given)
        published = {name: getattr(REGIMES[model], name) for name in ("epochs", "batch_size", "lr")}
        recipe = {"recipe": given.get("variant", cls.variant)}
        values = (
            published
            | recipe
            | {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        )
        return cls(**values)

    def model_options(self) -> dict:
        """The options of `models.build_model(self.model, ...)`."""
        if self.regime.slicewise:
            return {"plane": self.plane}
        return {
            "embed_dim": self.embed_dim,
            "variant": self.variant,
            "switched": self.switched,
            "fusion": self.fusion,
            "checkpoint_activations": self.checkpoint_activations,
        }

    def data_options(self) -> dict:
        """The options of `data.dataset.prepared_datasets(train, validation, ...)`."""
        return {
            "recipe": self.recipe,
            "size": self.size,
            "seed": self.seed,
            "cache": self.cache,
            "cache_folder": Path(self.out) / "cache",
        }

    def slice_options(self) -> dict:
        """The options of `data.slices.SliceDataset` beside those of every data set."""
        return {
            "plane": self.plane,
            "patch": self.regime.patch,
            "pooled": self.regime.inputs == ("image",),
        }

    def objective_options(self) -> dict:
        """The options of `losses.build_objective(name, ...)`: (MRI, PET) pairs of weights."""
        return {
            "alpha": (self.alpha1, self.alpha2),
            "beta": (self.beta1, self.beta2),
            "gamma": (self.gamma1, self.gamma2),
        }

    def check(self) -> None:
        """Refuse, before a run begins, values that do not go together and a folder that holds a
        run.

        Raises:
            InputError: naming the flag.
        """
        if not any(weight for pair in self.objective_options().values() for weight in pair):
            raise InputError(
                "--alpha1 .. --gamma2", "all six loss weights are 0", "give one above 0"
            )
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise InputError("--name", f"{self.name!r} is no folder name", "leave paths to --out")
        if self.size < 16:
            raise InputError("--size", f"{self.size} is below 16 voxels", "give 16 or more")
        if self.regime.slicewise and self.cache == "none":
            raise InputError(
                "--cache", "none would read a volume for every slice", "give disk or memory"
            )
        if self.embed_dim % 24:
            raise InputError(
                "--embed-dim", f"{self.embed_dim} is no multiple of 24", "give 24, 48, 72, 96, ..."
            )
        if self.best_by == "released" and self.size <= 64:
            problem = f"the released score reads slice 64, and --size is {self.size}"
            raise InputError("--best-by", problem, "give a size above 64, 128 as published")
        if bool(self.train_list) != bool(self.val_list):
            raise InputError("--train-list", "goes with --val-list", "give both or neither")
        content = set(os.listdir(self.run_folder)) if self.run_folder.is_dir() else set()
        unfinished = "config.json" in content and not content & {
            "last.pt",
            "best.pt",
        }  # not one epoch done
        if content and not unfinished:
            raise InputError(
                "--name", f"{self.run_folder} is not empty", "choose another name or --resume it"
            )

    def check_batches(self, pairs: int) -> None:
        """Refuse sizes whose deepest grid is one token if any training batch of DC2Fusion would
        hold one pair.

        Raises:
            InputError: BatchNorm needs more than one token a channel.
        """
        share = -(-pairs // len(self.gpus))
        if (
            not self.regime.slicewise
            and self.size <= 32
            and (self.batch_size == 1 or share % self.batch_size == 1)
        ):
            problem = f"{self.size} leaves one token on the deepest grid for a batch of 1, and BatchNorm needs two"
            raise InputError(
                "--size", problem, f"give a size above 32 or another --batch-size for {share} pairs"
            )

    def continued(self, given: dict, folder: Path) -> "TrainConfig":
        """This run's configuration to go on with.

        Args:
            given: values that the user gave this time.
            folder: the run's folder, which may have been moved.

        Raises:
            InputError: a value that would make it another run.
        """
        refuse_foreign(self.model, given)
        changeable = CHANGEABLE | ({"vgg"} if self.vgg else set())  # the file may have been moved
        for name, value in given.items():
            started_with = getattr(self, name)
            if name not in changeable and value != started_with:
                problem = f"{value}, but the run was started with {started_with}"
                raise InputError(flag(name), problem, "leave the flag out")
        changed = {name: value for name, value in given.items() if name in changeable}
        return replace(self, **changed, out=str(folder.parent), name=folder.name)

    def to_dict(self) -> dict:
        """Numbers, texts and lists only, so that it fits JSON and a weights-only checkpoint."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> "TrainConfig":
        """The inverse of `to_dict`. A key that is missing, from before it existed, takes its
        default.

        Raises:
            ValueError: for keys that are unknown or hold another type; the message names them.
        """
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"configuration keys are unknown: {', '.join(unknown)}")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name, value in values.items():
            default = getattr(cls, name)
            wanted = (
                (str, type(None)) if default is None or isinstance(default, str) else type(default)
            )
            if not isinstance(value, wanted) and not (
                isinstance(default, float) and isinstance(value, int)
            ):
                raise ValueError(f"configuration key {name} holds {value!r}")
        if values.get("model", cls.model) not in REGIMES:
            raise ValueError(f"configuration key model holds {values['model']!r}")
        return cls(**values)
