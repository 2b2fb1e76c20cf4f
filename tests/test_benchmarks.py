"""The benchmarks run and print what they promise; their figures are not tested."""

import sys

import pytest

from benchmarks import ablation, blend_conv, step


def run(monkeypatch, capsys, module, *flags) -> list[str]:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, flags)])
    module.main()
    return capsys.readouterr().out.splitlines()


def cells(lines: list[str], first: str) -> list[float]:
    line = next(line for line in lines if line.startswith(f"| {first} |"))
    return [float(cell) for cell in line.split("|")[2:-1]]


def test_blend_conv(monkeypatch, capsys):
    lines = run(monkeypatch, capsys, blend_conv, "--width", 8, "--side", 6, "--repeats", 1)
    for name in ("forward", "forward + backward"):
        plain, fast, ratio = cells(lines, name)
        assert ratio == pytest.approx(plain / fast, rel=0.5, abs=0.2)


def test_step(monkeypatch, capsys):
    flags = ("--size", 36, "--embed-dim", 24, "--paths", "fast", "--steps", 2)
    lines = run(monkeypatch, capsys, step, *flags)
    for row in ("forward seconds", "forward GiB", "step seconds", "step GiB"):
        line = next(line for line in lines if line.startswith(f"| {row} |"))
        assert float(line.split("|")[2]) > 0
    assert lines[-1].startswith("loss every 20 steps: ")


def test_ablation_row(tmp_path):
    (tmp_path / "losses.csv").write_text("epoch,loss/total\n1,3\n2,2\n")
    (tmp_path / "done").write_text("0")
    rows = [f"2,dc2fusion,{m}_{s},{v},0,1" for m, v in (("psnr", 20), ("ssim", 0.5)) for s in ("mri", "pet")]
    (tmp_path / "scores.csv").write_text("\n".join(["epoch,method,score,mean,sd,n", "2,average,psnr_mri,9,0,1", *rows]))
    assert ablation.row("paper", tmp_path, 3) == "| paper | 3 | 2.5 | 20 | 20 | 0.5 | 0.5 | yes |"


def test_ablation_row_of_a_run_that_diverged(tmp_path):
    (tmp_path / "losses.csv").write_text("epoch,loss/total\n1,3\n2,900\n")
    (tmp_path / "done").write_text("2")
    assert ablation.row("released", tmp_path, 3) == "| released | 3 | 451.5 | - | - | - | - | no |"
