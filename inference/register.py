"""Bring one head onto another by a trained network: the field as a file that ANTs applies.

python -m inference.register --checkpoint RUN --moving mri.nii.gz --field field.nii.gz
python -m inference.register --checkpoint RUN --moving mri.nii.gz --fixed template.nii.gz \\
    --field field.nii.gz
python -m inference.register --checkpoint RUN --check

Both images lie in MNI152 space, aligned affinely. `prepare.py --warp`, which does without
PyTorch, starts this program for every subject.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.displacement import Displacement, displacement_bytes
from data.grids import Image
from data.template_space import Space, Target, check_place, read_target, to_unit
from data.volume import read_volume
from inference.trained import locate
from models.registration.transmorph import Backbone
from training.checkpoint import read_own, restore_model
from training.hyperparameters import REGISTRATION
from utils.cli import Parser, run
from utils.errors import InputError
from utils.files import replacing

_REMEDY = "choose another path"


@dataclass(frozen=True)
class Registration:
    """A trained network and the grid that it works on.

    Attributes:
        model: in evaluation mode.
        space: the grid.
        description: for people.
    """

    model: Backbone
    space: Space
    description: str

    @torch.no_grad()
    def field(self, moving: Image, target: Target, name: str | Path) -> Displacement:
        """The field, on the network's grid, that brings a head onto the target.

        Args:
            moving: in MNI152 space.
            name: of the moving image, for messages.

        Raises:
            InputError: the head lies elsewhere, or the network's result is not finite.
        """
        values = to_unit(self.space.of(moving), name)
        check_place(values, name)
        volumes = (
            torch.from_numpy(part)[None, None] for part in (target.cut(values), target.values)
        )
        displacement = self.model.displacement(*volumes)[0]  # 3, D, H, W
        if not displacement.isfinite().all():
            raise InputError(name, "the network's field is NaN or infinite", "train it anew")
        vectors = displacement.movedim(0, -1).numpy() * np.float32(self.space.affine[0, 0])
        return Displacement(vectors, self.space.affine)


def load_registration(path: Path) -> Registration:
    """The network of a run folder or checkpoint.

    Raises:
        InputError: no checkpoint of a network that registers.
    """
    path = locate(path)
    content, config = read_own(path)
    if config.kind != REGISTRATION:
        problem = f"is {config.model}, which fuses"
        raise InputError(path, problem, "give a checkpoint of train_diff.py --model transmorph")
    model = restore_model(path, content, config).eval()
    space = Space(config.size, config.voxel_mm)
    epoch = f"epoch {content['epoch']}"
    return Registration(model, space, f"{path}: {config.model}, {config.network}, {epoch}")


def build_parser() -> Parser:
    """The flags."""
    parser = Parser(prog="python -m inference.register", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="RUN", help="run folder or checkpoint")
    add("--moving", type=Path, metavar="FILE", help="head, in MNI152 space")
    text = "what it is brought onto (nilearn's packaged template)"
    add("--fixed", type=Path, metavar="FILE", help=text)
    add("--field", type=Path, metavar="FILE", help="displacement to write, .nii.gz")
    add("--check", action="store_true", help="only see whether the network can be used")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Flags -> network -> field."""
    args: argparse.Namespace = build_parser().parse_args(argv)
    trained = load_registration(args.checkpoint)
    if args.check:
        print(trained.description)
        return
    for name in ("moving", "field"):
        if getattr(args, name) is None:
            raise InputError(f"--{name}", "is missing", "give it, or --check")
    target = read_target(args.fixed, trained.space)
    volume = read_volume(args.moving)
    moving = Image(volume.array, volume.affine)
    field = trained.field(moving, target, args.moving)
    with replacing(args.field, _REMEDY) as part:
        part.write_bytes(displacement_bytes(field))
    print(f"{trained.description}: {args.field}")


if __name__ == "__main__":
    run(main)
