"""The differences between the paper's network and the released one, each switched alone.

    python -m benchmarks.ablation --data ROOT --out result/ablation -- \\
        --size 64 --embed-dim 24 --lr 1e-3 --epochs 150

All take equal steps. What follows `--` goes to train_diff.py for every run. Runs that are finished
are not trained again. Prints the table of docs/model.md: the mean loss of the first epoch and of
the last ten, PSNR and SSIM on the validation pairs, and whether training was stable: it ended, and
its last losses are below the mean of the paper run's first epoch.
"""

import argparse
import csv
import shutil
import subprocess
import sys
from pathlib import Path

from models.variants import DIFFERENCES

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "paper": [],
    "released": ["--variant", "released", "--recipe", "paper"],
    **{f"paper, {r} switched": ["--switch", r] for r in DIFFERENCES},
}
LAST_EPOCHS = 10


def train(name: str, flags: list[str], args: argparse.Namespace) -> Path:
    """Train one run unless it is there; returns its folder.

    A run that diverges ends early, which is a result.
    """
    folder = args.out / name.replace(", ", "-").replace(" ", "-")
    if (folder / "done").exists():
        return folder
    command = [sys.executable, "train_diff.py", "--data", str(args.data.resolve())]
    command += [*args.flags, *flags, "--val-every", "1000000"]
    command += ["--out", str(args.out.resolve()), "--name", folder.name]
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status not in (0, 2) or not (folder / "losses.csv").exists():
        raise SystemExit(f"{name}: train_diff.py ended with status {status} in its first epoch")
    (folder / "done").write_text(str(status))
    return folder


def read_losses(folder: Path) -> list[float]:
    """The mean total loss of each epoch."""
    with open(folder / "losses.csv", newline="") as file:
        return [float(line["loss/total"]) for line in csv.DictReader(file)]


def row(name: str, folder: Path, first_loss: float) -> str:
    """A line of the table; `first_loss` is what a stable run must end below."""
    losses = read_losses(folder)
    last = sum(losses[-LAST_EPOCHS:]) / len(losses[-LAST_EPOCHS:])
    stable = (folder / "done").read_text() == "0" and last < first_loss
    scores = read_scores(folder)
    cells = [name, f"{losses[0]:.4g}", f"{last:.4g}"]
    for score in ("psnr_mri", "psnr_pet", "ssim_mri", "ssim_pet"):
        cells.append(f"{scores[score]:.3g}" if scores else "-")
    cells.append("yes" if stable else "no")
    return f"| {' | '.join(cells)} |"


def read_scores(folder: Path) -> dict[str, float]:
    """The network's last validation scores; empty where it diverged before."""
    if not (folder / "scores.csv").exists():
        return {}
    with open(folder / "scores.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["method"] == "dc2fusion"]
    return {line["score"]: float(line["mean"]) for line in lines}


def main() -> None:
    """Train all runs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("result/ablation"))
    parser.add_argument("flags", nargs="*", help="for train_diff.py, after --")
    args = parser.parse_args()
    folders = {name: train(name, flags, args) for name, flags in RUNS.items()}
    print("| run | first loss | last losses | PSNR MRI | PSNR PET | SSIM MRI | SSIM PET | stable |")
    print("|---|---|---|---|---|---|---|---|")
    first_loss = read_losses(folders["paper"])[0]
    for name, folder in folders.items():
        print(row(name, folder, first_loss))


if __name__ == "__main__":
    main()
