"""How far methods are from the optima of objectives: `python -m benchmarks.optimum --data FOLDER`.

    python -m benchmarks.optimum --data pairs pairs_icbm --objectives ssim-gradient-intensity:2:1
        --runs compact=result/compact --out result/optimum

For every pair: the average, the Laplacian pyramid, the voxelwise optimum of each objective (see
`inference.optimum`) and trained networks, all on the network's grid. Columns: SSIM against the MRI,
the PET and both, NMI, Qabf, VIF, lesion transfer (T_mri, T_pet; see `metrics.transfer`), and the
loss and excess under each objective. The table, one for each pair and one of their means, goes to
`optimum.md` and `optimum.csv` in --out.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.measure import machine, parse_device
from data.subjects import find_subjects
from evaluation.scoring import Case, Settings
from inference.optimum import OBJECTIVE_FORM, STEPS, Optimum, excess, parse_objective
from inference.trained import load_model
from losses import Objective
from metrics import Scorer
from metrics.transfer import lesion_transfer
from models import build_model
from utils.cli import positive_int
from utils.errors import InputError, report
from utils.files import replacing

SCORES = {"SSIM": "ssim", "NMI": "nmi", "Qabf": "qabf", "VIF": "vif"}
DEFAULTS = ("ssim-gradient-intensity:2:1", "ssim-gradient-intensity:1:1")
AVERAGE = "average"

Fuse = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """A method: its label, and a function of MRI and PET, (B, 1, D, H, W)."""

    label: str
    fuse: Fuse
    batch: int = 1  # volumes that it takes at once without their changing each other


def average(mri: Tensor, pet: Tensor) -> Tensor:
    """(MRI + PET) / 2."""
    return (mri + pet) / 2


def network(mri: Tensor, pet: Tensor, model: torch.nn.Module, device: torch.device) -> Tensor:
    """A network's output, on the sources' device."""
    with torch.inference_mode():
        return model(mri.to(device), pet.to(device)).float().to(mri.device)


def build_rows(args: argparse.Namespace, objectives: dict[str, Objective]) -> list[Row]:
    """The methods of the table, in its order."""
    rows = [Row(AVERAGE, average), Row("laplacian", build_model("laplacian").eval())]
    for label, objective in objectives.items():
        rows.append(Row(f"optimum of {label}", Optimum(objective, args.steps), batch=4))
    for text in args.runs:
        label, given, path = text.partition("=")
        if not given:
            raise InputError("--runs", f"{text!r} names no run", "give LABEL=RUN")
        model = load_model(Path(path), size=args.size).model.to(args.device)
        rows.append(Row(label, partial(network, model=model, device=args.device)))
    return rows


def measure(
    row: Row, case: Case, scorer: Scorer, objectives: dict[str, Objective], draws: int
) -> dict[str, float]:
    """Everything about one method on one pair but the excess; columns by name."""
    mri, pet = case.inputs
    fused = row.fuse(mri, pet)
    scores = scorer(fused[0, 0])
    columns = {"SSIM MRI": scores["ssim_mri"], "SSIM PET": scores["ssim_pet"]}
    columns |= {title: scores[name] for title, name in SCORES.items()}
    if draws:
        voxel_mm = case.voxel_mm("network")
        found = lesion_transfer(row.fuse, mri, pet, voxel_mm, draws=draws, batch=row.batch)
        for source in ("mri", "pet"):
            columns[f"T_{source}"], columns[f"T_{source} std"] = found.of(source)
    for label, objective in objectives.items():
        columns[f"loss {label}"] = float(objective(fused, mri, pet)[0])
    return columns


def add_excess(table: dict[str, dict[str, float]], objectives: Sequence[str]) -> None:
    """The excess of every row under every objective, into the rows."""
    for label in objectives:
        loss = f"loss {label}"
        best, start = table[f"optimum of {label}"][loss], table[AVERAGE][loss]
        for columns in table.values():
            columns[f"excess {label}"] = excess(columns[loss], best, start)


def mean_table(tables: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean over pairs of every cell."""
    first = next(iter(tables.values()))
    result = {}
    for row, columns in first.items():
        result[row] = {
            name: sum(table[row][name] for table in tables.values()) / len(tables)
            for name in columns
        }
    return result


def markdown(title: str, table: dict[str, dict[str, float]]) -> str:
    """One pair's tables: scores and transfer, then loss and excess under each objective."""
    names = list(next(iter(table.values())))
    scores = [n for n in names if not n.endswith("std") and not n.startswith(("loss", "excess"))]
    losses = [name for name in names if name.startswith("loss")]
    lines = [f"### {title}", "", *_header(scores)]
    for row, columns in table.items():
        lines.append(f"| {row} | {' | '.join(f'{columns[name]:.3f}' for name in scores)} |")
    lines += ["", *_header([f"{name} (excess)" for name in losses])]
    for row, columns in table.items():
        cells = []
        for name in losses:
            excess_here = columns[name.replace("loss", "excess", 1)]
            cells.append(f"{columns[name]:.3f} ({excess_here:.1%})")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _header(names: Sequence[str]) -> list[str]:
    return [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]


def write(folder: Path, head: str, tables: dict[str, dict[str, dict[str, float]]]) -> None:
    """`optimum.csv`, a line for each pair and row, and `optimum.md`."""
    with (
        replacing(folder / "optimum.csv") as part,
        open(part, "w", newline="", encoding="utf-8") as file,
    ):
        first = next(iter(next(iter(tables.values())).values()))
        writer = csv.DictWriter(file, ["pair", "row", *first])
        writer.writeheader()
        for pair, table in tables.items():
            for row, columns in table.items():
                writer.writerow({"pair": pair, "row": row} | columns)
    shown = tables | {f"mean of {len(tables)} pairs": mean_table(tables)}
    parts = [head, *(markdown(title, table) for title, table in shown.items())]
    with replacing(folder / "optimum.md") as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders of pairs")
    parser.add_argument("--subjects", nargs="+", help="of all folders (default: every pair)")
    parser.add_argument(
        "--objectives", nargs="+", default=list(DEFAULTS), metavar="NAME", help=OBJECTIVE_FORM
    )
    parser.add_argument("--runs", nargs="+", default=[], metavar="LABEL=RUN")
    parser.add_argument("--size", type=positive_int, default=64, help="voxels a side (64)")
    parser.add_argument(
        "--steps", type=positive_int, default=STEPS, help=f"to the optimum ({STEPS})"
    )
    parser.add_argument("--draws", type=int, default=3, help="of lesions (3); 0 for no transfer")
    parser.add_argument("--device", type=parse_device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path, default=Path("result/optimum"))
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure, print and write everything.

    Raises:
        InputError: bad data, objectives or runs.
    """
    objectives = {text: parse_objective(text, "--objectives") for text in args.objectives}
    rows = build_rows(args, objectives)
    found = [subject for root in args.data for subject in find_subjects(root).subjects]
    subjects = [s for s in found if args.subjects is None or s.name in args.subjects]
    if not subjects:
        raise InputError("--subjects", "none of them is in --data", "check the names")
    tables = {}
    bar = tqdm(total=len(subjects) * len(rows), unit="row", disable=None)
    for subject in subjects:
        case = Case(subject, Settings(size=args.size))
        scorer = Scorer(*case.sources("network"), names=list(SCORES.values()))
        tables[subject.name] = {}
        for row in rows:
            columns = measure(row, case, scorer, objectives, args.draws)
            tables[subject.name][row.label] = columns
            bar.update()
        add_excess(tables[subject.name], list(objectives))
        write(args.out, f"{args.size}^3 voxels, {args.steps} steps; {machine(args.device)}", tables)
    bar.close()
    print((args.out / "optimum.md").read_text(encoding="utf-8"), end="")


def main() -> None:
    try:
        run(build_parser().parse_args())
    except InputError as error:
        report(error)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
