"""What README and docs name exists: files, modules, links, flags."""

import re
import subprocess
import sys

import pytest

from tests.helpers.golden import ROOT

DOCS = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "weights").glob("*.md")),
    *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
]
SCRIPTS = ("train_diff.py", "infer_sigleImage.py", "evaluate.py", "prepare.py")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
# What other programs take: pip, tensorboard, torchrun.
FOREIGN_FLAGS = {
    "--logdir",
    "--standalone",
    "--nnodes",
    "--nproc-per-node",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--rdzv-id",
    "--max-restarts",
    "--scheduler-file",
    "--nthreads",
    "--exclude",
}
# Folders that the programs write.
OUTPUTS = {"result", "log", "flagged", "boxplots"}


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """What each script's --help names."""
    known = {}
    for script in SCRIPTS:
        command = [sys.executable, script, "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        known[script] = set(FLAG.findall(done.stdout))
    return known


def module_file(module: str):
    """The file that `python -m module` runs, or None."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__main__.py"):
        if file.is_file():
            return file
    return None


def commands(text: str) -> list[list[str]]:
    """The words of every command in a code block or inline code that begins with python."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = []
    for line in lines:
        words = line.split("#")[0].split()
        if words and words[0] == "python":
            found.append(words[1:])
    return found


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Every Python file of the project, from the root."""
    found = []
    for entry in ROOT.iterdir():
        if not entry.name.startswith("."):  # an environment is no part of it
            found += [entry] if entry.suffix == ".py" else entry.rglob("*.py")
    return [file.relative_to(ROOT).as_posix() for file in found]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_files_exist(path, sources):
    for name in re.findall(r"[\w./-]+\.py\b", path.read_text("utf-8")):
        found = any(f"/{file}".endswith(f"/{name}") for file in sources)
        assert found, f"{path.name} names {name}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).is_file(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_modules_and_folders_exist(path):
    text = path.read_text("utf-8")
    for module in re.findall(r"python -m ([\w.]+)", text):
        if module.split(".")[0] != "venv":
            assert module_file(module), f"{path.name} runs {module}"
    for module in re.findall(r"`(benchmarks\.\w+)", text):
        assert module_file(module), f"{path.name} names {module}"
    for folder in re.findall(r"`((?:[a-z_]+/)+)`", text):
        is_output = folder.split("/")[0] in OUTPUTS
        assert is_output or (ROOT / folder).is_dir(), f"{path.name} names {folder}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_flags_exist(path, flags):
    """Those of a command in that program, others in any of the four scripts or a module named."""
    text = path.read_text("utf-8")
    somewhere = set().union(*flags.values(), FOREIGN_FLAGS)
    for module in re.findall(r"python -m ([\w.]+)", text):
        if module_file(module):
            somewhere |= set(FLAG.findall(module_file(module).read_text("utf-8")))
    unknown = sorted(set(FLAG.findall(text)) - somewhere)
    assert not unknown, f"{path.name} names {', '.join(unknown)}"

    for program, *words in commands(text):
        if program == "-m":
            file = module_file(words[0])
            known = set(FLAG.findall(file.read_text("utf-8"))) if file else set()
            words = (
                words[: words.index("--")] if "--" in words else words
            )  # the rest is train_diff's
        else:
            known = flags.get(program, set())
        for word in words:
            if FLAG.fullmatch(word.split("=")[0]):
                assert word.split("=")[0] in known, f"{path.name}: {program} has no {word}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_prose_wraps_at_100_columns(path):
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        is_prose = not line.startswith(("|", "!["))
        assert not is_prose or len(line) <= 100, f"{path.name}:{number} has {len(line)} columns"
