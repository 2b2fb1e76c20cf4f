"""The flags of train_diff.py."""

import argparse

from training.config import TrainConfig
from training.hyperparameters import REGIMES
from utils.cli import (
    Parser,
    device_numbers,
    loss_weight,
    non_negative_int,
    positive_float,
    positive_int,
    seed,
)

TERMS = {"alpha": "structure", "beta": "edges", "gamma": "intensity"}


def build_parser(description: str) -> Parser:
    """A flag that is not given takes the value of `TrainConfig`, or the model's own of `REGIMES`."""
    default = TrainConfig()
    parser = Parser(
        prog="train_diff.py", description=description, argument_default=argparse.SUPPRESS
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="ROOT",
        help="data set in the published layout or in BIDS (default: synthetic)",
    )
    data.add_argument("--train-list", metavar="FILE", help="subjects to train on, one a line")
    data.add_argument(
        "--val-list", metavar="FILE", help="subjects to validate on (default: 10 %% by --seed)"
    )
    data.add_argument(
        "--rec", dest="recording", help="BIDS: which rec- label to take of several PETs"
    )
    data.add_argument("--run", help="BIDS: which run- number to take of several images")
    data.add_argument(
        "--size", type=positive_int, help=f"voxels a side the network sees ({default.size})"
    )
    data.add_argument(
        "--recipe", choices=("paper", "released"), help="preprocessing (as --variant)"
    )
    data.add_argument(
        "--cache",
        choices=("disk", "memory", "none"),
        help=f"preprocessed volumes ({default.cache})",
    )
    data.add_argument(
        "--workers", type=non_negative_int, help=f"loading processes ({default.workers})"
    )

    parser.add_argument_group("model").add_argument(
        "--model",
        choices=REGIMES,
        help=f"a method to train ({default.model}); the others fuse slice by slice",
    )
    model = parser.add_argument_group("dc2fusion")
    model.add_argument(
        "--embed-dim", type=positive_int, help=f"E, a multiple of 24 ({default.embed_dim})"
    )
    model.add_argument(
        "--variant",
        choices=("paper", "released"),
        help=f"reading of the method ({default.variant})",
    )
    model.add_argument(
        "--switch",
        dest="switched",
        nargs="+",
        metavar="R",
        help="differences R1 .. R9 to switch alone",
    )
    model.add_argument("--fusion", help="fusion strategy (the variant's own)")

    loss = parser.add_argument_group(
        "dc2fusion's loss", "1 = MRI, 2 = PET; published weights are 2 and 1"
    )
    loss.add_argument(
        "--objective", help=f"or salient-additive, lncc-ssim-l1 ({default.objective})"
    )
    for name, term in TERMS.items():
        for number, source in ((1, "MRI"), (2, "PET")):
            text = f"{term}, {source} ({getattr(default, f'{name}{number}'):g})"
            loss.add_argument(f"--{name}{number}", type=loss_weight, metavar="W", help=text)

    slices = parser.add_argument_group("slice by slice", "each method has its own loss")
    slices.add_argument(
        "--plane", choices=("axial", "coronal", "sagittal"), help=f"of the slices ({default.plane})"
    )
    slices.add_argument(
        "--vgg", metavar="FILE", help="VGG-16's weights, for the losses of u2fusion and dilran"
    )

    optimisation = parser.add_argument_group("optimisation", published())
    optimisation.add_argument("--epochs", type=positive_int, help="(the model's published number)")
    optimisation.add_argument(
        "--batch-size", type=positive_int, help="a device (the model's published one)"
    )
    optimisation.add_argument(
        "--lr", type=positive_float, help="first learning rate (the model's published one)"
    )
    optimisation.add_argument("--seed", type=seed, help=f"({default.seed})")
    optimisation.add_argument(
        "--amp", action=argparse.BooleanOptionalAction, help="bfloat16 autocast (off)"
    )
    optimisation.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile, dc2fusion (off)"
    )
    text = "keep less for the backward pass and compute it again, dc2fusion (off)"
    optimisation.add_argument(
        "--checkpoint-activations", action=argparse.BooleanOptionalAction, help=text
    )
    optimisation.add_argument("--gpus", type=device_numbers, metavar="0,1", help="CUDA devices (0)")

    output = parser.add_argument_group("run")
    output.add_argument("--name", help="the run's folder below --out (run-<date>-<time>)")
    output.add_argument("--out", help=f"({default.out})")
    output.add_argument(
        "--val-every", type=positive_int, help=f"epochs between validations ({default.val_every})"
    )
    output.add_argument(
        "--best-by",
        choices=("ssim-min", "released"),
        help=f"what best.pt is best by ({default.best_by})",
    )
    output.add_argument("--resume", metavar="RUN", help="go on with this run folder or checkpoint")
    return parser


def published() -> str:
    """Epochs, batch size and learning rate of each model, as lines of text."""
    rows = [f"{name:10} {r.epochs:4}  {r.batch_size:4}  {r.lr:g}" for name, r in REGIMES.items()]
    return "\n".join(["published epochs, batch size and learning rate:", *rows])
