"""Export a network as a MONAI bundle: one network with two input channels, and how it is used.

    python -m inference.bundle --out bundle
    python -m monai.bundle run --config_file bundle/configs/inference.json \\
        --bundle_root bundle --mri t1.nii.gz --pet fdg.nii.gz

The second command runs in a checkout of this repository, whose modules the bundle's configuration
names, and needs the packages pytorch-ignite and fire. It writes the volume that
infer_sigleImage.py writes.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import monai
import numpy as np
import torch
from torch import Tensor, nn

from data.bids import stem
from data.foreground import foreground, without_hot_voxels
from data.settings import RECIPES
from data.volume import Volume, check_output, read_pair, write_like
from inference.fuse import Head, run_network, window_side
from inference.optimum import FROM_NETWORK, parse_objective, refine
from inference.trained import TrainedModel, choose_checkpoint, load_model, objective_at
from losses.ssim import WINDOW
from metrics import clip_unit
from training.checkpoint import read_own
from training.config import TrainConfig
from training.hyperparameters import FUSION
from training.weights import SUFFIX, read
from utils.cli import Parser, run
from utils.errors import InputError
from utils.files import replacing
from utils.version import project_version

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)


# What the bundle's configuration names ------------------------------------------------------------


class TwoChannels(nn.Module):
    """A network of MRI and PET as one of two channels.

    Args:
        network: takes MRI and PET apart.
        size: voxels a side of the windows in which larger volumes are fused.
        balance: share of the MRI, 0 to 1, for a network that takes any; None for another.
        objective: of its training, see `inference.optimum.parse_objective`; its weights are those
            of the balance where there is one.
        refine: steps over the fused voxels for this objective, see `inference.optimum.refine`.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        balance: float | None = None,
        objective: str = "",
        refine: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.size, self.steps = network, size, refine
        if balance is not None:
            network.default_balance = balance
            objective = objective_at(objective, balance)
        self.objective = parse_objective(objective, "objective") if refine else None

    def forward(self, image: Tensor) -> Tensor:
        """Fuse (B, 2, D, H, W) in [0, 1], MRI first, of any size -> (B, 1, D, H, W) in [0, 1]."""
        return torch.cat([self._fuse(pair[None]) for pair in image])

    def _fuse(self, pair: Tensor) -> Tensor:
        mri, pet = pair[:, :1], pair[:, 1:]  # 1, 1, D, H, W

        def inputs(part: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
            return mri[0, 0][part][None, None], pet[0, 0][part][None, None]

        shape = pair.shape[2:]
        fused = run_network(self.network, self.size, shape, inputs).to(pair.device).clamp(0, 1)
        if not self.steps or min(shape) < WINDOW:
            return fused
        return refine(fused, mri, pet, self.objective, self.steps, FROM_NETWORK)


class ReadPair:
    """{"mri": file, "pet": file} -> the same with "image", the head's box, (2, D, H, W) in [0, 1].

    Args:
        recipe: name of the preprocessing recipe.
    """

    def __init__(self, recipe: str = "paper") -> None:
        self.recipe = RECIPES[recipe]

    def __call__(self, data: dict) -> dict:
        _, _, head = self.read(data)
        return {**data, "image": torch.cat(head.inputs((), torch.device("cpu")))[:, 0]}

    def read(self, data: dict) -> tuple[Volume, np.ndarray, Head]:
        """The MRI, the foreground, and the box around the head."""
        pair = without_hot_voxels(read_pair(data["mri"], data["pet"]), self.recipe.robust)
        inside = foreground(pair[0].array, self.recipe)
        return pair[0], inside, Head(pair, inside)


class WriteFused:
    """{"mri", "pet", "pred"} -> `<folder>/<name of the MRI>_fused.nii.gz`, on the MRI's own grid.

    Args:
        folder: to write to.
        recipe: as `ReadPair`.
    """

    def __init__(self, folder: str, recipe: str = "paper") -> None:
        self.folder, self.reader = Path(folder), ReadPair(recipe)

    def __call__(self, data: dict) -> dict:
        mri, inside, head = self.reader.read(data)
        output, _ = clip_unit(torch.as_tensor(data["pred"]).float().cpu())  # 1, D, H, W
        fused = np.zeros(inside.shape, np.float32)
        fused[head.box] = output[0].numpy()
        fused[~inside] = 0
        path = self.folder / f"{stem(Path(data['mri']))}_fused.nii.gz"
        check_output(path, (Path(data["mri"]), Path(data["pet"])), overwrite=True)
        write_like(path, fused, mri)
        return data


# What is written ---------------------------------------------------------------------------------


def inference(trained: TrainedModel, config: TrainConfig) -> dict:
    """The bundle's `configs/inference.json`."""
    balance = trained.model.default_balance if trained.turns else None
    network = {
        "_target_": "models.build_model",
        "name": "dc2fusion",
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "variant": config.variant,
        "switched": list(config.switched),
        "fusion": config.fusion,
        "init": "default",
        "balanced": config.balance == "any",
        "head": config.head,
    }
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "mri": "$@dataset_dir + '/mri.nii.gz'",
        "pet": "$@dataset_dir + '/pet.nii.gz'",
        "balance": balance,
        "refine": trained.refine,
        "recipe": config.recipe,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "inference.bundle.TwoChannels",
            "network": network,
            "size": window_side(config.size),
            "balance": "@balance",
            "objective": trained.objective,
            "refine": "@refine",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "inference.bundle.ReadPair", "recipe": "@recipe"},
        "dataset": {
            "_target_": "Dataset",
            "data": [{"mri": "@mri", "pet": "@pet"}],
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "inference.bundle.WriteFused",
            "folder": "@output_dir",
            "recipe": "@recipe",
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def metadata(config: TrainConfig) -> dict:
    """The bundle's `configs/metadata.json`."""
    volume = {
        "type": "image",
        "format": "magnitude",
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
    }
    image = {
        **volume,
        "modality": "MR and PET",
        "num_channels": 2,
        "channel_def": {"0": "MRI", "1": "PET"},
    }
    fused = {**volume, "num_channels": 1, "channel_def": {"0": "fused"}}
    drawn = f"synthetic pairs ({config.synthesis}), no patient" if config.synthesis else "see docs"
    return {
        "schema": SCHEMA,
        "version": project_version(),
        "changelog": {project_version(): "first export"},
        "monai_version": monai.__version__,
        "pytorch_version": str(torch.__version__).split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {
            "nibabel": ">=5.3",
            "scipy": ">=1.13",
            "safetensors": ">=0.5",
            "pytorch-ignite": ">=0.4.11",
        },
        "name": "DC2Fusion",
        "task": "Fusion of MRI and PET of one head",
        "description": "One MRI and one PET of a head in, one fused volume out, on the MRI's grid",
        "authors": "The DC2Fusion contributors",
        "copyright": "Copyright (c) The DC2Fusion contributors, MIT licence",
        "data_source": drawn,
        "data_type": "nifti",
        "image_classes": "MRI and PET on one grid, each from its lowest to its highest value",
        "pred_classes": "fused intensities, 0 outside the head",
        "eval_metrics": {},
        "intended_use": "Research only. Not a medical device",
        "references": ["Liu et al., ICONIP 2023, arXiv 2310.06291"],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": fused}},
    }


def readme(description: str) -> str:
    """The bundle's `docs/README.md`."""
    command = dedent(__doc__.partition("bundle\n")[2].partition("\n\n")[0])
    return f"""# DC2Fusion

One MRI and one PET of a head go in, one fused volume comes out, on the MRI's own grid. For research
only: not a medical device. What the network is and was trained on, its scores and limits:
`weights/MODEL_CARD.md` of the repository.

Network: {description}.

Run it in a checkout of the repository (`pip install -r requirements.txt pytorch-ignite fire`):

```
{command}
```

It writes `eval/<name of the MRI>_fused.nii.gz` below the bundle. `--balance 0.7` turns a network
for any balance to the MRI, `--output_dir` is another folder, `--refine 0` leaves out the steps over
the voxels that follow the network. `network_def` takes one image of two channels, MRI and PET,
(B, 2, D, H, W) in [0, 1], and returns (B, 1, D, H, W).
"""


def configuration_of(source: Path) -> TrainConfig:
    """The configuration of weights or of an own checkpoint.

    Raises:
        InputError: of another checkpoint, of a 2-D method or of one that registers.
    """
    config = read(source).config if source.suffix == SUFFIX else read_own(source)[1]
    if config.kind != FUSION:
        raise InputError(source, f"is {config.model}", "give a network of DC2Fusion")
    return config


def export(trained: TrainedModel, config: TrainConfig, folder: Path) -> None:
    """Write the bundle.

    Raises:
        InputError: a file cannot be written.
    """
    network = TwoChannels(trained.model, window_side(config.size))
    described = replace(trained, description=trained.description.partition(": ")[2])
    texts = {
        "configs/inference.json": json.dumps(inference(trained, config), indent=2) + "\n",
        "configs/metadata.json": json.dumps(metadata(config), indent=2) + "\n",
        "docs/README.md": readme(described.description),
    }
    for name, text in texts.items():
        with replacing(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    with replacing(folder / "models" / "model.pt") as part:
        torch.save(network.state_dict(), part)
    with replacing(folder / "LICENSE") as part:
        shutil.copyfile(ROOT / "LICENSE", part)


def main(argv: Sequence[str] | None = None) -> None:
    """Flags -> network -> bundle."""
    parser = Parser(prog="python -m inference.bundle", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="of the bundle, new or empty")
    text = "run folder, .pt or .safetensors (the weights that come with the code)"
    add("--checkpoint", type=Path, help=text)
    args = parser.parse_args(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise InputError(args.out, "is there already and not an empty folder", "name a new one")
    trained = load_model(choose_checkpoint(args.checkpoint, Path("result")))
    export(trained, configuration_of(trained.source), args.out)
    print(f"{args.out}: {trained.description}")


if __name__ == "__main__":
    run(main)
