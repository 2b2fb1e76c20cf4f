"""How each model was trained by its authors: the one table of published hyper-parameters.

Sources, each with its released code: DC2Fusion arXiv 2310.06291; SwinFuse IEEE TIM 2022; U2Fusion
IEEE TPAMI 44(1), 2022; DILRAN arXiv 2212.04661; MATR IEEE TIP 31, 2022; TransMorph Medical Image
Analysis 82, 2022. The losses, and how U2Fusion swaps its sources, are in `losses`. Plain values:
nothing heavy is imported.
"""

from dataclasses import dataclass, field

# What a model is, and so what it is trained on, by what and how it is scored.
FUSION = "fusion"  # whole volumes of MRI and PET become one
SLICES = "slices"  # a 2-D method, trained on slices with its own loss
REGISTRATION = "registration"  # a field brings one head onto another


@dataclass(frozen=True)
class Hyperparameters:
    """The training of one model.

    Attributes:
        epochs, batch_size, lr: published, each of them a flag.
        decays: the learning rate falls polynomially to 0; otherwise it stays.
        optimizer: its name in `torch.optim`.
        optimizer_options: its further options; one fused kernel updates all weights of Adam.
        inputs: what a batch holds: pairs, or single images of both modalities pooled; of those that
            are not always there, as many as there are.
        kind: one of those above.
        patch: side of the random squares that it sees instead of slices.
        drops_last: a last batch that is not full is left out: the loss is divided by the batch once
            more.
        weight_limit: after each step, weights beyond this are set to it.
        without_vgg: what is done where no file of VGG-16's weights is given; None for a loss
            without VGG-16.
    """

    epochs: int
    batch_size: int
    lr: float
    decays: bool = False
    optimizer: str = "Adam"
    optimizer_options: dict = field(default_factory=lambda: {"fused": True})
    inputs: tuple[str, ...] = ("mri", "pet")
    kind: str = SLICES
    patch: int | None = None
    drops_last: bool = False
    weight_limit: float | None = None
    without_vgg: str | None = None


PUBLISHED = {
    "dc2fusion": Hyperparameters(
        epochs=500,
        batch_size=1,
        lr=1e-4,
        decays=True,
        kind=FUSION,
    ),
    "swinfuse": Hyperparameters(
        epochs=50,
        batch_size=4,
        lr=1e-5,
        inputs=("image",),
        drops_last=True,
    ),
    # Published: 3, 2 and 2 epochs of three tasks one after another, of which the first has two
    # modalities. TensorFlow's RMSProp begins with a mean square of 1 instead of 0, which its decay
    # of 0.6 forgets within some steps.
    "u2fusion": Hyperparameters(
        epochs=3,
        batch_size=18,
        lr=1e-4,
        optimizer="RMSprop",
        optimizer_options={"alpha": 0.6, "momentum": 0.15},
        patch=64,
        weight_limit=50,
        without_vgg="both sources weigh 1/2 in the loss",
    ),
    "dilran": Hyperparameters(
        epochs=100,
        batch_size=4,
        lr=1e-4,
        inputs=("image",),
        without_vgg="the loss has no perceptual term",
    ),
    "matr": Hyperparameters(epochs=10, batch_size=64, lr=1e-3, patch=120),
}
for _name in ("transmorph", "transmorph-diff"):
    PUBLISHED[_name] = Hyperparameters(
        epochs=500,
        batch_size=1,
        lr=1e-4,
        decays=True,
        optimizer_options={"amsgrad": True, "fused": True},
        inputs=("moving", "fixed", "moving_labels", "fixed_labels"),
        kind=REGISTRATION,
    )

# Sizes by name, as `models.dc2fusion.NETWORKS` and `models.registration.transmorph.NETWORKS` have
# them, which take torch to import.
NETWORKS = {
    "paper": {"embed_dim": 96, "depths": (2, 2, 6, 2), "head": "patches"},
    "compact": {"embed_dim": 96, "depths": (2, 2), "head": "bands"},
}
REGISTRATION_NETWORKS = {
    "tiny": {"embed_dim": 6, "depths": (2, 2, 4, 2)},
    "small": {"embed_dim": 48, "depths": (2, 2, 4, 2)},
    "standard": {"embed_dim": 96, "depths": (2, 2, 4, 2)},
    "large": {"embed_dim": 128, "depths": (2, 2, 12, 2)},
}
