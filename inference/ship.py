"""Turn a checkpoint into weights to give away: 16-bit safetensors, with a JSON beside it.

    python -m inference.ship result/NAME/last.pt --out weights --commit HASH

It prints how far the fused volumes of the 16-bit weights lie from those of the checkpoint, on a
pair that the code makes and, with --data, on real ones. What the weights give on the made pair is
written into the JSON; `tests/inference/test_ship.py` holds every machine to it. A model card in the
folder gets the values of the new file.
"""

import argparse
import datetime
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from data.phantom.cohort import write_cohort
from data.phantom.head import VERSION
from data.subjects import find_subjects
from data.volume import Volume, read_pair
from inference.fuse import fuse_pair
from inference.trained import TrainedModel, load_model, locate
from metrics.blocks import score_in_blocks
from models.balance import NEUTRAL
from training import checkpoint, weights
from training.build import build_network
from training.config import FROM_WEIGHTS, SETTINGS, TrainConfig, flag
from training.hyperparameters import FUSION
from utils.cli import Parser, non_negative_int, run, share
from utils.errors import InputError
from utils.files import replacing

LICENSE = "MIT"
SEED, VOXEL_MM = 20231017, 4.0  # of the made pair: another head than any cohort's
STEPS = 3  # over the voxels, what most of a network's excess takes (docs/measures.md)
CARD = "MODEL_CARD.md"
VALUES = "<!-- what follows is written by inference.ship -->", "<!-- until here -->"
# Settings that name places and machines, or what a run may change without being another one.
PRIVATE = ("data", "train_list", "val_list", "labels", "vgg", "out", "cache", "workers", "gpus")


def made_pair(seed: int = SEED, voxel_mm: float = VOXEL_MM) -> tuple[Volume, Volume]:
    """A small synthetic head that is the same on every machine: MRI and PET."""
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(folder, subjects=1, seed=seed, voxel_mm=voxel_mm)
        subject = find_subjects(folder).subjects[0]
        return read_pair(subject.mri, subject.pet)


def made_scores(trained: TrainedModel, pair: tuple[Volume, Volume]) -> dict[str, float]:
    """PSNR, SSIM and NMI against both sources, and the mean, of the pair fused on a CPU."""
    fusion = fuse_pair(trained, *pair, torch.device("cpu"))
    (scores,) = score_in_blocks([fusion.fused], fusion.mri, fusion.pet)
    return scores | {"mean": float(fusion.fused.mean(dtype=float))}


def difference(
    first: TrainedModel, second: TrainedModel, pair: tuple[Volume, Volume], device: torch.device
) -> float:
    """The largest difference between what two networks make of a pair, in intensity."""
    fused = [fuse_pair(trained, *pair, device).fused for trained in (first, second)]
    return float(abs(fused[0] - fused[1]).max())


def sixteen_bit(
    trained: TrainedModel, config: TrainConfig
) -> tuple[TrainedModel, dict[str, torch.Tensor]]:
    """The network with weights rounded to 16 bits, and its state dict as it is written.

    Raises:
        InputError: a weight is beyond their range.
    """
    try:
        stored = weights.to_stored(trained.model.state_dict())
    except ValueError as error:
        problem = str(error)
        raise InputError(trained.source, problem, "give a run whose training was stable") from error
    rounded = build_network(config)
    rounded.load_state_dict(stored)
    rounded.default_balance = trained.model.default_balance
    return replace(trained, model=rounded.eval()), stored


def public(config: TrainConfig) -> TrainConfig:
    """A configuration without what is of one machine."""
    return replace(config, **{name: getattr(TrainConfig, name) for name in PRIVATE})


def command_of(config: TrainConfig) -> str:
    """The command that a configuration comes from, with FOLDER for the label maps."""
    given = {"network": config.network, "variant": config.variant}
    usual = replace(TrainConfig.of(given), network=TrainConfig.network)
    taken = (*weights.NETWORK, *weights.LEARNT_FOR) if config.init == FROM_WEIGHTS else ()
    words = ["python train_diff.py"]
    for name in SETTINGS:
        if name in taken:
            continue
        value = getattr(config, name)
        if name == "labels" and config.synthesis in ("labels", "both"):
            words.append("--labels FOLDER")
        if value == getattr(usual, name):
            continue
        if isinstance(value, bool):
            words.append(flag(name) if value else flag(name).replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words.append(f"{flag(name)} {' '.join(map(str, value))}")
        else:
            words.append(f"{flag(name)} {value}")
    return " ".join(words)


def head_commit() -> str:
    """The commit of this checkout.

    Raises:
        InputError: there is none.
    """
    root = Path(__file__).resolve().parents[1]
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        problem = "this folder is no git checkout"
        raise InputError("--commit", problem, "name the commit that trained the weights") from error
    return done.stdout.strip()


def about_training(content: dict, config: TrainConfig, commit: str, balance: float) -> dict:
    """What header and JSON say of a checkpoint."""
    return {
        "license": LICENSE,
        "command": command_of(config),
        "commit": commit,
        "date": datetime.date.today().isoformat(),
        "epochs": content["epoch"],
        "steps": content["step"],
        "versions": content["versions"],
        "balance": balance if config.balance == "any" else None,
        "config": config.to_dict(),
    }


def card_values(record: dict) -> str:
    """The part of a model card that is about one file."""
    about, expected = record["about"], record["expected"]
    rows = {
        "file": f"`{record['file']}`, {record['bytes'] / 1e6:.1f} MB, "
        f"{record['parameters'] / 1e6:.2f} M parameters in 16 bits",
        "SHA-256": f"`{record['sha256']}`",
        "licence": about["license"],
        "training": f"`{about['command']}`",
        "trained for": f"{about['epochs']} epochs, {about['steps']} steps",
        "commit, date": f"{about['commit'][:12]}, {about['date']}",
        "default balance": "none" if about["balance"] is None else f"{about['balance']:g}",
        "refined by": f"{record['refine']} steps over the fused voxels (`--refine`)",
        "16-bit against 32-bit weights": f"fused voxels differ by {record['rounding']:.1g} at most",
    }
    scores = expected["scores"]
    for name in ("psnr", "ssim", "nmi"):
        values = f"{scores[f'{name}_mri']:.3f} / {scores[f'{name}_pet']:.3f}"
        rows[f"{name.upper()} of the made pair, MRI / PET"] = values
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(lines)


def fill_card(card: Path, record: dict) -> None:
    """Put the values of a file into its model card, between two marks.

    Raises:
        InputError: the marks are not there.
    """
    before, begun, rest = card.read_text(encoding="utf-8").partition(VALUES[0])
    _, ended, after = rest.partition(VALUES[1])
    if not (begun and ended):
        raise InputError(card, f"has no {VALUES[0]} .. {VALUES[1]}", "put them into a new section")
    with replacing(card) as part:
        part.write_text(
            f"{before}{begun}\n\n{card_values(record)}\n\n{ended}{after}", encoding="utf-8"
        )


def build_parser() -> Parser:
    """The flags of this module."""
    parser = Parser(prog="python -m inference.ship", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="run folder or .pt of DC2Fusion")
    add("--out", type=Path, default=weights.SHIPPED.parent, help="folder (weights)")
    add("--commit", help="that trained the weights (this checkout's)")
    text = "share of the MRI by default, of a network for any (0.5)"
    add("--balance", type=share, default=NEUTRAL, metavar="T", help=text)
    text = "steps over the voxels that its output is to have (%(default)s)"
    add("--refine", type=non_negative_int, default=STEPS, metavar="N", help=text)
    text = "also compare 16 with 32 bits on these pairs"
    add("--data", type=Path, action="append", default=[], metavar="ROOT", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """A checkpoint -> weights, and how good 16 bits are."""
    args: argparse.Namespace = build_parser().parse_args(argv)
    path = locate(args.checkpoint)
    content, config = checkpoint.read_own(path)
    if config.kind != FUSION:
        raise InputError(path, f"is {config.model}", "give a checkpoint of DC2Fusion")
    config = public(config)
    full = load_model(path)
    if full.turns:
        full = full.turned_to(args.balance)
    rounded, stored = sixteen_bit(full, config)
    pair, cpu = made_pair(), torch.device("cpu")
    largest = difference(full, rounded, pair, cpu)
    print(f"16 against 32 bits, largest difference of fused voxels: {largest:.2g} (made pair)")
    for root in args.data:
        for subject in find_subjects(root).subjects:
            found = difference(full, rounded, read_pair(subject.mri, subject.pet), cpu)
            print(f"16 against 32 bits: {found:.2g} ({subject.name})")
            largest = max(largest, found)
    more = {
        "refine": args.refine,
        "parameters": sum(parameter.numel() for parameter in full.model.parameters()),
        "rounding": largest,
        "expected": {
            "pair": {"generator_version": VERSION, "seed": SEED, "voxel_mm": VOXEL_MM},
            "scores": made_scores(rounded, pair),
        },
    }
    about = about_training(content, config, args.commit or head_commit(), args.balance)
    file = args.out / weights.SHIPPED.name
    record = weights.write(file, stored, about, more)
    if (args.out / CARD).is_file():
        fill_card(args.out / CARD, record)
    scores = json.dumps({name: round(v, 4) for name, v in more["expected"]["scores"].items()})
    print(f"{file}: {record['bytes'] / 1e6:.1f} MB, SHA-256 {record['sha256']}\nexpected: {scores}")


if __name__ == "__main__":
    run(main)
