"""What the four programs have in common at the command line, each run as a process of its own."""

import os
import subprocess
import sys

import pytest

from tests.helpers.golden import ROOT
from utils.version import project_version

PROGRAMS = "train_diff.py", "infer_sigleImage.py", "evaluate.py", "prepare.py"
WITHOUT = "import runpy, sys; sys.modules[sys.argv[1]] = None; del sys.argv[:2]; "
WITHOUT += "sys.path.insert(0, '.'); runpy.run_path(sys.argv[0], run_name='__main__')"


def call(*command, **options):
    """A finished Python process in the root of the project."""
    given = {"capture_output": True, "text": True, "cwd": ROOT} | options
    return subprocess.run([sys.executable, *map(str, command)], check=False, **given)


def pair_of(cohort):
    """The flags that name the first pair of a synthetic cohort."""
    first = cohort / "synthetic-001"
    files = [first / f"synthetic-001_{kind}_MNI152.nii.gz" for kind in ("mri", "FDG")]
    return "--mri", files[0], "--pet", files[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_says_its_version(program):
    done = call(program, "--version")
    assert (done.returncode, done.stdout) == (0, f"{program} {project_version()}\n")


def test_the_version_is_that_of_the_citation():
    assert f"version: {project_version()}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("package", ["torch", "monai"])
@pytest.mark.parametrize("program", PROGRAMS[:3])
def test_without_what_it_runs_on_a_program_says_so_in_a_line(
    program, package, synthetic_cohort, tmp_path
):
    flags = "--data", synthetic_cohort, "--out", tmp_path / "out"
    if program.startswith("infer"):
        # Native voxels need no MONAI.
        flags = *pair_of(synthetic_cohort), "--output", tmp_path / "out" / "fused.nii.gz"
        flags = *flags, "--resolution", "published"
    done = call("-c", WITHOUT, package, program, *flags)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line == f"error: {package}: it is not installed; pip install -r requirements.txt"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "package, said",
    [
        ("ants", "prepare.py: antspyx not installed"),
        ("tqdm", "tqdm: it is not installed"),
        ("nibabel", "nibabel: it is not installed"),
    ],
)
def test_without_what_it_runs_on_prepare_says_so_in_a_line(
    package, said, synthetic_cohort, tmp_path
):
    pytest.importorskip("ants")
    files = pair_of(synthetic_cohort)[1::2]
    (tmp_path / "pairs.csv").write_text(f"subject,mri,pet\none,{files[0]},{files[1]}\n")
    flags = "--pairs", tmp_path / "pairs.csv", "--out", tmp_path / "out"
    done = call("-c", WITHOUT, package, "prepare.py", *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = f"error: {said}; pip install -r requirements-prep.txt"
    assert done.stderr.splitlines()[-1] == line


PRINTS = "from utils.cli import run; run(lambda: print('x' * int(__import__('sys').argv[1])))"


@pytest.mark.parametrize(
    ("command", "unbuffered", "status"),
    [
        (("-c", PRINTS, 1), "", 141),
        (("-c", PRINTS, 1), "1", 141),
        (("-c", PRINTS, 10**6), "", 141),
        (("-c", PRINTS, 10**6), "1", 141),
        *(((program, "--version"), "", 141) for program in PROGRAMS),
        # argparse passes over a closed pipe that it sees itself.
        *(((program, "--version"), "1", 0) for program in PROGRAMS),
        *(((program, "--help"), "1", 0) for program in PROGRAMS),
    ],
)
def test_a_pipe_that_nobody_reads_is_no_traceback(command, unbuffered, status):
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    pipes = {"capture_output": False, "stdout": write, "stderr": subprocess.PIPE}
    done = call(*command, **pipes, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (status, "")


def test_a_name_that_the_terminal_has_no_letters_for():
    script = "from utils.cli import run; run(lambda: print('\u8111'))"
    done = call("-c", script, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, "\\u8111\n")


@pytest.mark.parametrize("flag", ["--list", "--colour"])
def test_a_text_that_is_not_utf8(flag, tmp_path):
    table = tmp_path / "text.csv"
    table.write_bytes("mri,pet\nM\u00fcller.nii,p.nii\n".encode("latin-1"))
    done = call("infer_sigleImage.py", flag, table)
    assert done.returncode == 2
    assert f"error: {table}: not UTF-8 text (at byte" in done.stderr.splitlines()[-1]
