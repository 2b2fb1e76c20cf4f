"""The benchmarks run and print what they promise; their figures are not tested."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import (
    ablation,
    blend_conv,
    command,
    epoch,
    gpu,
    methods,
    scaling,
    step,
)
from benchmarks.common import counting, measure, operations
from data.synthesis.dataset import SyntheticPairs
from models import build_model
from training import build, datasets


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


def test_command(monkeypatch, capsys):
    """Rows of a stand-in for the start and the program; only what runs is replaced."""
    rows = {"import torch": ["-c", "pass"], "start": ["-c", "sum(range(10**6))"]}
    monkeypatch.setattr(command, "commands", lambda *_: rows)
    lines = run(monkeypatch, capsys, command, "--repeats", 1, "--threads", 1)
    for name in rows:
        wall, cpu, gib, ratio = cells(lines, name)
        assert 0 < gib < 1 and 0 < cpu and 0 < wall
        assert ratio == pytest.approx(wall / cells(lines, "import torch")[0], rel=0.5)


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(RuntimeError, match="status 3"):
        command.cost_of(["-c", "raise SystemExit(3)"], 1)


@pytest.fixture
def here(monkeypatch):
    """Backends are measured in this process, with one block a stage."""

    def shallow(*names, **options):
        return build_model(*names, **options | {"depths": (1, 1)})

    for module in (build, counting, gpu, step):
        monkeypatch.setattr(module, "build_model", shallow)
    monkeypatch.setattr(step, "WARM_UP", 0)

    def measure_apart(arguments, backend):
        return step.measure(step.build_parser().parse_args([str(a) for a in arguments]), backend)

    for module in (step, scaling):
        monkeypatch.setattr(module, "measure_apart", measure_apart)


def test_step(monkeypatch, capsys, here):
    monkeypatch.setattr(step, "matrix_rate", lambda *_: 1e11)
    monkeypatch.setattr(step, "copy_bandwidth", lambda *_: 1e10)
    lines = run(
        monkeypatch, capsys, step, "--size", 34, "--embed-dim", 24, "--operations", "--steps", 2
    )
    for row in ("forward seconds", "forward GiB", "step seconds", "step GiB"):
        plain, fast, ratio = cells(lines, row)
        assert ratio == pytest.approx(plain / fast, rel=0.02)
    for row in ("plain forward", "fast step"):
        line = next(line for line in lines if line.startswith(f"| {row} |")).split("|")
        seconds_line = next(
            line for line in lines if line.startswith(f"| {row.split()[1]} seconds |")
        ).split("|")
        elapsed = float(seconds_line[2 if row.startswith("plain") else 3])
        assert float(line[3]) == pytest.approx(float(line[2]) / elapsed, rel=0.02)
        assert line[4].strip().endswith("%") and line[7].strip().endswith("%")
    totals = [line for line in lines if line.startswith("| together |")]
    assert len(totals) == 2 and all(line.count("100 %") == 2 for line in totals)
    assert lines[-1].startswith("loss every 20 steps: ")


def test_scaling(monkeypatch, capsys, here, tmp_path):
    picture = tmp_path / "scaling.png"
    flags = ("--sizes", 40, 34, "--repeats", 1, "--picture", picture)
    lines = run(monkeypatch, capsys, scaling, *flags)
    assert [line.split("|")[1].strip() for line in lines[-3:]] == ["34", "40", "power of voxels"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_powers_of_cost():
    rows = {64: [1.0, 5.0], 128: [8.0, 5.0]}
    assert scaling.powers(rows) == pytest.approx([1, 0])


def test_epoch(monkeypatch, capsys, here):
    flags = ("--size", 34, "--subjects", 2, "--workers", 0, "--epochs", 1)
    lines = run(monkeypatch, capsys, epoch, *flags)
    (loading,), (repeated,), (ratio,) = (
        cells(lines, row) for row in ("with loading", "one repeated batch", "ratio")
    )
    assert ratio == pytest.approx(loading / repeated, rel=0.02)


def test_an_epoch_of_the_shipped_weights_draws_its_pairs(monkeypatch, capsys):
    volume = torch.rand(1, 16, 16, 16)
    small = {"size": 16, "embed_dim": 24, "depths": (1, 1), "init": "identity"}
    config = replace(epoch.read(epoch.SHIPPED).config, **small)
    monkeypatch.setattr(epoch, "read", lambda path: SimpleNamespace(config=config))
    monkeypatch.setattr(datasets, "find_anatomies", lambda *_: [None, None])
    monkeypatch.setattr(SyntheticPairs, "finish", lambda *_: {"mri": volume, "pet": volume})
    flags = "--shipped", "--subjects", 2, "--workers", 0, "--epochs", 1
    lines = run(monkeypatch, capsys, epoch, *flags)
    assert float(lines[1].split()[0]) > 0 and "drawn pairs of 96^3 a second" in lines[1]
    assert "16^3" in lines[2] and "0 workers, 2 pairs" in lines[2]
    assert len(cells(lines, "ratio")) == 1


def test_a_repeated_batch_is_augmented_once(monkeypatch, capsys, here):
    """An epoch without data has to be without augmentation on the training's device, too."""
    build, finished = epoch.build_trainer, []

    def build_deferred(*arguments):
        trainer = build(*arguments)
        dataset, finish = trainer.train, trainer.train.finish

        def noted(item, number, index):
            finished.append(number)
            return finish(item, number, index)

        dataset.deferred = True
        monkeypatch.setattr(dataset, "finish", noted)
        return trainer

    monkeypatch.setattr(epoch, "build_trainer", build_deferred)
    run(monkeypatch, capsys, epoch, "--size", 34, "--subjects", 2, "--workers", 1, "--epochs", 1)
    assert finished == [
        0,
        0,
        0,
        1,
        1,
    ]  # the one to repeat, the epoch that starts the workers, the one with loading


def test_losses_are_those_of_a_head(monkeypatch, here):
    """Noise teaches a network nothing that a precision could spoil."""
    trained, build = [], step.build_objective

    def noted(name):
        objective = build(name)

        def call(fused, mri, pet):
            trained.append(mri)
            return objective(fused, mri, pet)

        return call

    monkeypatch.setattr(step, "build_objective", noted)
    flags = ("--size", "34", "--embed-dim", "24", "--passes", "forward", "--steps", "2")
    losses = step.measure(step.build_parser().parse_args(flags), "fast")["losses"]
    assert len(losses) == len(trained) == 2
    for mri in trained:
        assert torch.equal(mri, measure.synthetic_head(34)[0])


def test_failed_process_is_explained_by_its_exception(capfd):
    with pytest.raises(
        RuntimeError, match="^timeit ended with status 1: ZeroDivisionError: division by zero$"
    ):
        measure.run_module("timeit", "1 / 0")
    assert "Traceback" in capfd.readouterr().err
    with pytest.raises(
        RuntimeError, match="^json.tool ended with status 2: .*unrecognized arguments: --nonsense$"
    ):
        measure.run_module("json.tool", "--nonsense")
    assert measure.run_module("timeit", "--number", "1", "pass").startswith("1 loop")


@pytest.fixture
def figures(monkeypatch):
    """What benchmarks.gpu measures, given out at once; the ceilings fail for bfloat16."""

    def measured(arguments, backend):
        plain = backend == "plain"
        seconds = {"forward": 4.0, "step": 12.0} if plain else {"forward": 0.5, "step": 1.0}
        by_kind = {name: {"GELU": value} for name, value in seconds.items()}
        return {
            "seconds": seconds,
            "GiB": {"forward": 1, "step": 2},
            "bytes": {},
            "operations": by_kind,
            "losses": [3, 2],
        }

    def ceilings(args):
        if args.dtype == "bfloat16":
            raise ValueError("no kernel image\nlong story")
        return {
            "flops": 1e12,
            "matrix rate": {"float32": 4e12, "tf32": 8e12}[args.dtype],
            "bandwidth": 1e12,
        }

    monkeypatch.setattr(gpu, "agreement", lambda *_: {"forward": 1e-6})
    monkeypatch.setattr(step, "measure_apart", measured)
    monkeypatch.setattr(step, "ceilings", ceilings)
    monkeypatch.setattr(gpu, "run_module", lambda module, *_: f"text of {module}")


def test_fast_path_agrees_with_the_plain_one():
    differences = gpu.agreement(torch.device("cpu"), "released")
    assert 0 < differences["forward"] < 1e-4 and 0 < differences["gradients"] < 1e-4


def test_gpu_script_names_what_failed_and_goes_on(monkeypatch, capsys, here, figures, tmp_path):
    lines = run(monkeypatch, capsys, gpu, "--device", "cpu", "--out", tmp_path)
    assert "fast against plain, released, float32: forward 1.0e-06" in lines
    assert "| fast bfloat16 | 0.5 | 8.0 | 1 | 12.0 | 2 | 1.00 |" in lines
    assert lines[-1] == "failed: ceilings, bfloat16: no kernel image"
    report = (tmp_path / "report.md").read_text()
    assert "## step, by kind of operation" in report and "text of benchmarks.epoch" in report
    assert (tmp_path / "losses.csv").read_text().splitlines() == [
        "step,float32,bfloat16",
        "1,3,3",
        "2,2,2",
    ]


def test_gpu_script_measures_each_configuration_by_the_ceiling_of_its_type(
    monkeypatch, capsys, here, figures, tmp_path
):
    run(monkeypatch, capsys, gpu, "--device", "cpu", "--out", tmp_path)
    report = (tmp_path / "report.md").read_text()
    rows = [line.split("|") for line in report.splitlines() if line.endswith("| - | - | - |")]
    fractions = {row[1].strip(): row[4].strip() for row in rows}
    assert fractions["plain float32 forward"] == "6 %"  # 1 TFLOP in 4 s, of 4 TFLOP/s
    assert fractions["fast float32 forward"] == "50 %"
    assert fractions["fast TF32 forward"] == "25 %"
    assert not any("bfloat16" in name for name in fractions)


def test_gpu_script_keeps_what_it_measured_when_it_is_stopped(
    monkeypatch, capsys, here, figures, tmp_path
):
    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "ceilings", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, capsys, gpu, "--device", "cpu", "--out", tmp_path)
    assert "fast bfloat16" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "figures.json").read_text())["curves"] == {
        "float32": [3, 2],
        "bfloat16": [3, 2],
    }


def test_flops_are_those_of_the_products():
    """Doubling E, and doubling the sides of the volume."""
    small, large = (counting.network_flops(embed_dim, 32) for embed_dim in (24, 48))
    assert 2 < large / small < 4  # convolutions by channel grow with E, products with its square
    assert counting.network_flops(24, 64) / small == pytest.approx(8, rel=0.05)


def test_traffic_counts_what_is_read_and_written():
    volume = torch.rand(10, 100)
    assert counting.traffic(lambda: volume + volume[:1].expand(10, 100)) == 4 * (1000 + 100 + 1000)
    assert counting.traffic(lambda: volume.view(100, 10).T) == 0


def test_kinds_of_operations():
    assert (
        operations.kind("aten::mkldnn_convolution", [[1, 96, 9, 9, 9], [96, 1, 7, 7, 7]])
        == "depthwise convolutions"
    )
    assert (
        operations.kind("aten::mkldnn_convolution", [[1, 1, 9, 9, 9], [96, 1, 4, 4, 4]])
        != "matrix products"
    )
    assert operations.kind("aten::addmm", []) == "matrix products"
    assert operations.kind("aten::gelu_backward", []) == "GELU"


def test_ablation_row(tmp_path):
    (tmp_path / "losses.csv").write_text("epoch,loss/total\n1,3\n2,2\n")
    (tmp_path / "done").write_text("0")
    rows = [
        f"2,dc2fusion,{m}_{s},{v},0,1"
        for m, v in (("psnr", 20), ("ssim", 0.5))
        for s in ("mri", "pet")
    ]
    (tmp_path / "scores.csv").write_text(
        "\n".join(["epoch,method,score,mean,sd,n", "2,average,psnr_mri,9,0,1", *rows])
    )
    assert ablation.row("paper", tmp_path, 3) == "| paper | 3 | 2.5 | 20 | 20 | 0.5 | 0.5 | yes |"


def test_ablation_row_of_a_run_that_diverged(tmp_path):
    (tmp_path / "losses.csv").write_text("epoch,loss/total\n1,3\n2,900\n")
    (tmp_path / "done").write_text("2")
    assert ablation.row("released", tmp_path, 3) == "| released | 3 | 451.5 | - | - | - | - | no |"


def test_methods(monkeypatch, capsys):
    lines = run(monkeypatch, capsys, methods, "--size", 24, "--methods", "matr", "laplacian")
    for name in ("matr", "laplacian"):
        clock, cpu = cells(lines, name)
        assert clock > 0 and cpu > 0
