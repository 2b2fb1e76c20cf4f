"""The flags of infer_sigleImage.py."""

from pathlib import Path

from data.tracers import FDG_NAME
from utils.cli import Parser, cube_side, device_numbers, non_negative_int, share


def build_parser(description: str) -> Parser:
    """A parser of what to fuse, with which network and where to."""
    parser = Parser(prog="infer_sigleImage.py", description=description)
    add = parser.add_argument_group("what to fuse").add_argument
    add("--mri", metavar="FILE", type=Path, help="MRI, .nii or .nii.gz")
    add("--pet", metavar="FILE", type=Path, help="PET of the same head, on any grid")
    add("--data", metavar="ROOT", type=Path, help="data set in the published layout or in BIDS")
    add("--list", metavar="CSV", type=Path, help="table of pairs")
    add("--rec", dest="recording", help="BIDS: which rec- label to take of several PETs")
    add("--run", help="BIDS: which run- number to take of several images")
    add("--tracer", default=FDG_NAME, metavar="NAME", help="BIDS: whose PETs to take (FDG)")

    add = parser.add_argument_group("network").add_argument
    text = "run folder, .pt, .safetensors, .pth of the released code, or newest: the newest run "
    text += "under result/ (the weights that come with the code)"
    add("--checkpoint", type=Path, help=text)
    text = "published weights instead, with options METHOD:OPTION=VALUE,...=FILE"
    add("--weights", metavar="METHOD=FILE", help=text)
    text = "of the slices, with --weights (axial)"
    add("--plane", choices=("axial", "coronal", "sagittal"), help=text)
    add("--variant", choices=("paper", "released"), help="how to read a released .pth (released)")
    text = "cube of a released .pth or of --weights (128)"
    add("--size", type=cube_side, default=128, help=text)
    text = "the MRI's voxels, or the training's cube (native; for the released recipe published)"
    add("--resolution", choices=("native", "published"), help=text)
    text = "then improve the result over its voxels by N steps (the weights' own; 0 for runs)"
    add("--refine", type=non_negative_int, metavar="N", help=text)
    text = "for --refine: NAME, NAME:MRI:PET or with all six weights (the run's)"
    add("--objective", metavar="NAME", help=text)
    text = (
        "share of the MRI, 0 to 1, for a network trained with --balance any (the weights' own, 0.5)"
    )
    add("--balance", type=share, metavar="T", help=text)
    add("--gpus", type=device_numbers, default=(0,), metavar="N", help="CUDA device (0)")
    add("--amp", action="store_true", help="bfloat16 autocast")

    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, help="NIfTI for --mri and --pet, else a folder (result/fused)")
    text = (
        "colours of the picture, by name or a table's file; also writes the fused volume in them, "
    )
    text += "_colour.nii.gz (the picture alone, hot)"
    add("--colour", nargs="?", const="hot", metavar="MAP", help=text)
    text = "the colours as DICOM secondary captures; SERIES: folder of the MRI's own DICOM files"
    add("--dicom", nargs="?", const="", metavar="SERIES", help=text)
    text = "take patient and study over from SERIES (left out)"
    add("--keep-patient", action="store_true", help=text)
    add("--page", action="store_true", help="a page to look at the result in a browser, .html")
    text = "of --output: plain, or bids, a BIDS derivative of the data set --data (plain)"
    add("--layout", choices=("plain", "bids"), default="plain", help=text)
    add("--overwrite", action="store_true", help="replace outputs that are there")
    return parser
