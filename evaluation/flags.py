"""The flags of evaluate.py."""

from pathlib import Path

from data.tracers import FDG_NAME
from utils.cli import Parser, cube_side, device_numbers, non_negative_int, share


def build_parser(description: str) -> Parser:
    """A parser of what to score, by which methods and how."""
    parser = Parser(prog="evaluate.py", description=description)
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="ROOT", type=Path, required=True, help="published layout or BIDS")
    add("--list", metavar="FILE", type=Path, help="subjects to score, one a line (all)")
    add("--rec", dest="recording", help="BIDS: which rec- label to take of several PETs")
    add("--run", help="BIDS: which run- number to take of several images")
    add("--tracer", default=FDG_NAME, metavar="NAME", help="BIDS: whose PETs to take (FDG)")

    add = parser.add_argument_group("methods").add_argument
    text = "LABEL=CHECKPOINT (run folder, .pt, .safetensors or released .pth), dc2fusion with the "
    text += "weights that come with the code, the name of a fusion without any, as laplacian, or "
    text += "optimum[:OBJECTIVE[:MRI:PET]], the objective's over the voxels"
    add("--methods", nargs="+", default=[], metavar="METHOD", help=text)
    text = "share of the MRI, 0 to 1, for networks trained with --balance any (their own, 0.5); "
    text += "several: a row for each"
    add("--balance", nargs="+", type=share, default=[], metavar="T", help=text)
    text = "steps over the voxels that networks with an objective of volumes have fused (the "
    text += "weights' own; 0 for runs)"
    add("--refine", type=non_negative_int, metavar="N", help=text)
    text = "published weights: swinfuse, u2fusion, dilran or matr, with options "
    text += "METHOD:OPTION=VALUE,...=FILE"
    add("--weights", nargs="+", default=[], metavar="METHOD=FILE", help=text)
    text = "of the slices for published weights (axial); a run knows its own"
    add("--plane", choices=("axial", "coronal", "sagittal"), help=text)
    text = "NIfTI files fused elsewhere"
    add("--fused", nargs="+", default=[], metavar="LABEL=FOLDER", help=text)
    text = "of --fused: the values that stand for 0 and 1 of the sources (0 1)"
    add("--fused-range", nargs=2, type=float, metavar=("LOW", "HIGH"), help=text)
    add("--no-trivial", action="store_true", help="leave out copy, average, mixes and maximum")
    text = "how to read a released .pth (released)"
    add("--variant", choices=("paper", "released"), help=text)
    add("--gpus", type=device_numbers, default=(0,), metavar="N", help="CUDA device (0)")

    add = parser.add_argument_group("scores").add_argument
    text = "volume (3-D), published (slice 64 as the released code) or both (both)"
    add("--protocol", choices=("volume", "published", "both"), help=text)
    text = "only these, as named in docs/reproduce.md (all)"
    add("--metrics", nargs="+", metavar="NAME", help=text)
    text = "volume protocol: where (none)"
    add("--mask", choices=("none", "head"), default="none", help=text)
    text = "1 axial, 3 all, for slice metrics (1)"
    add("--planes", type=int, choices=(1, 3), default=1, help=text)
    text = "voxels a side of the network's grid (128)"
    add("--size", type=cube_side, default=128, help=text)
    add("--recipe", choices=("paper", "released"), default="paper", help="preprocessing (paper)")
    text = "volume protocol: score on the network's grid or on the MRI's own (network)"
    add("--grid", choices=("network", "native"), default="network", help=text)

    text = "volume protocol: how much of a lesion in one source arrives; full: more kinds of them"
    kinds = ("standard", "full")
    add("--lesions", nargs="?", const="standard", choices=kinds, help=text)

    add = parser.add_argument_group("output").add_argument
    text = "only write pairs with lesions, for another program to fuse"
    add("--export-lesions", metavar="FOLDER", type=Path, help=text)
    out = Path("result/evaluation")
    add("--out", metavar="FOLDER", type=Path, default=out, help="(%(default)s)")
    text = "a page for each subject to look at in a browser, pages/<subject>.html"
    add("--page", action="store_true", help=text)
    add("--overwrite", action="store_true", help="score anew what is scored already")
    return parser
