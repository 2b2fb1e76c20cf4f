"""benchmarks.convergence trains, measures and writes; its figures are not tested."""

import csv
import sys

import pytest

from benchmarks import convergence


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Function (*flags) -> (the rows of the printed table, the rows of the CSV)."""

    def call(*flags):
        small = "--size 16 --voxel-mm 8 --heads 2 --network paper --embed-dim 24 --depths 1".split()
        arguments = [*small, "--out", str(tmp_path), *map(str, flags)]
        monkeypatch.setattr(sys, "argv", ["convergence", *arguments])
        convergence.main()
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
        with open(tmp_path / "convergence.csv", newline="") as file:
            return [line.strip("| ").split(" | ") for line in lines], list(csv.DictReader(file))

    return call


def test_curves_of_both_initialisations(run, tmp_path):
    table, curves = run("--init", "identity", "default", "--steps", 3, "--every", 2, "--optimum", 5)
    assert [row["step"] for row in curves] == ["0", "2", "3"]
    assert set(curves[0]) == {"step", "identity synthetic-003", "default synthetic-003"}
    start = {name: float(loss) for name, loss in curves[0].items()}
    assert start["identity synthetic-003"] < start["default synthetic-003"]
    assert [row[3] for row in table[1:]] == ["identity", "default"]
    for row in table[1:]:
        assert float(row[4]) == pytest.approx(start[f"{row[3]} synthetic-003"], abs=6e-4)
        average, optimum, end = (float(row[column]) for column in (1, 2, 6))
        excess = 100 * (end - optimum) / (average - optimum)
        assert float(row[7].removesuffix(" %")) == pytest.approx(excess, rel=0.03, abs=1)
    assert (tmp_path / "convergence.png").read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_curve(run):
    flags = ("--steps", 2, "--every", 1, "--warm-up", 0, "--decay")
    assert run(*flags) == run(*flags)


def test_pairs_are_drawn_beside_the_heads(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        convergence, "find_anatomies", lambda *about: drawn.append(about) or ["anatomy"]
    )
    flags = ["--size", "16", "--voxel-mm", "8", "--heads", "2", "--crop", "24", "--drawn", "5"]
    args = convergence.build_parser().parse_args([*flags, "--out", str(tmp_path)])
    train, held_out = convergence.read_pairs(args)
    assert drawn == [("heads", None, tmp_path / "cache")]
    assert len(train) == 2 + 5 and train[0, 0]["mri"].shape == (1, 24, 24, 24)
    assert held_out["synthetic-003"][0].shape == (1, 1, 16, 16, 16)


def test_a_running_mean_is_measured(run):
    flags = ("--steps", 2, "--every", 1, "--warm-up", 0, "--lr", 1e-3, "--fusion", "average")
    _, raw = run(*flags)
    _, mean = run(*flags, "--ema", 0.5)
    start, first, second = (
        [float(row["identity synthetic-003"]) for row in rows]
        for rows in zip(raw, mean, strict=True)
    )
    assert start[0] == start[1] and first[0] == first[1] and second[0] != second[1]


def test_rate_warms_up_and_falls():
    parser = convergence.build_parser()
    args = parser.parse_args(["--lr", "1", "--warm-up", "4", "--steps", "10"])
    assert [convergence.rate(step, args) for step in (0, 3, 9)] == [0.25, 1, 1]
    args.decay = True
    assert convergence.rate(9, args) == pytest.approx(0.1**0.9)


def test_wrong_objective_is_told(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--objective", "ssim:1")
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --objective: 'ssim:1'")
