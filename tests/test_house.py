"""The house stands: imports run downwards only, what is heavy stays where it is wanted.

Every import of every module is read from the source, those of the lazy door
(`utils.optional.lazy("...")`) included.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Folder or script: the folders it may import from, beside itself.
MAY_IMPORT = {
    "utils": set(),
    "models": set(),
    "losses": set(),
    "metrics": set(),
    "data": {"utils"},
    "preparation": {"utils", "data"},
    "training": {"utils", "models", "losses", "metrics", "data"},
    "inference": {"utils", "models", "losses", "metrics", "data", "training"},
    "evaluation": {"utils", "models", "losses", "metrics", "data", "training", "inference"},
    "train_diff": {"utils", "models", "losses", "metrics", "data", "training"},
    "infer_sigleImage": {"utils", "models", "metrics", "data", "training", "inference"},
    "evaluate": {"utils", "models", "metrics", "data", "training", "inference", "evaluation"},
    "prepare": {"utils", "data", "preparation"},
    "hubconf": {"utils", "models", "training", "inference"},
    "benchmarks": {
        "utils", "models", "losses", "metrics", "data", "preparation", "training", "inference",
        "evaluation",
    },
}  # fmt: skip
SCRIPTS = ("train_diff", "infer_sigleImage", "evaluate", "prepare", "hubconf")
FOLDERS = tuple(name for name in MAY_IMPORT if name not in SCRIPTS)
MOST_MODULES = 16  # a folder, without its __init__.py
MOST_LINES = 200  # a script: flags in, rooms connected

# What must not be imported, directly or by way of others, by everything whose name begins so.
FREE_OF = {
    "utils": {"torch", "monai", "ants", "pydicom", "nilearn"},
    "preparation": {"torch", "monai", "ants", "pydicom", "nilearn"},
    "prepare": {"torch", "monai", "ants", "pydicom", "nilearn"},
    # `--help` waits for whatever these import
    "train_diff": {"torch", "monai", "matplotlib"},
    "infer_sigleImage": {"torch", "monai", "matplotlib"},
    "evaluate": {"torch", "monai", "matplotlib"},
}
OPTIONAL = {"ants", "pydicom", "nilearn"}  # by way of `utils.optional.need` only

# Modules beside the scripts that open the lazy door, and why.
LAZY = {"inference.fuse": "MONAI, slower to import than PyTorch, for one of two ways"}

# Files with imports inside functions, and why.
INSIDE_FUNCTIONS = {
    "models/ops/kernels/__init__.py": "Triton is imported when the first CUDA tensor arrives",
}


@dataclass(frozen=True)
class Import:
    """One import: which module, by which line.

    `runs` says that it is carried out when its file is imported: not inside a function, not for
    type checkers only, not through the lazy door.
    """

    target: str
    line: int
    is_inside: bool = False
    is_lazy: bool = False
    is_for_types: bool = False

    @property
    def runs(self) -> bool:
        return not (self.is_inside or self.is_lazy or self.is_for_types)


def files_of(folder: str) -> list[Path]:
    """The modules of a folder and of those below it; a script is one."""
    if folder in SCRIPTS:
        return [ROOT / f"{folder}.py"]
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(file: Path) -> str:
    """`models/ops/sampling.py` -> "models.ops.sampling"; a package's `__init__.py` -> its name."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of the project: {name: file}."""
    found = {}
    for folder in MAY_IMPORT:
        for file in files_of(folder):
            found[name_of(file)] = file
    return found


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """Every import of a module of the project."""
    file = modules()[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(read_imports(file.read_text(encoding="utf-8"), package))


def read_imports(source: str, package: str) -> Iterator[Import]:
    """Every import in a source text.

    Args:
        package: what relative imports start from.
    """
    yield from _walk(ast.parse(source), package, is_inside=False, is_for_types=False)


def _walk(node: ast.AST, package: str, is_inside: bool, is_for_types: bool) -> Iterator[Import]:
    for target in _targets(node, package):
        is_lazy = isinstance(node, ast.Call)
        yield Import(target, node.lineno, is_inside, is_lazy, is_for_types)
    is_inside = is_inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    is_for_types = is_for_types or isinstance(node, ast.If) and "TYPE_CHECKING" in _names(node.test)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, package, is_inside, is_for_types)


def _targets(node: ast.AST, package: str) -> list[str]:
    """The modules that one statement, or one call of the lazy door, names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *filter(None, [base])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and "lazy" in _names(node.func):
        argument = node.args[0]
        assert isinstance(argument, ast.Constant), "the lazy door takes names that can be read here"
        return [argument.value]
    return []


def _names(node: ast.AST) -> set[str]:
    """The names in an expression: `typing.TYPE_CHECKING` has both of them."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            found.add(part.id)
        if isinstance(part, ast.Attribute):
            found.add(part.attr)
    return found


def top(name: str) -> str:
    return name.partition(".")[0]


def carried_out(target: str) -> set[str]:
    """The project's modules that run when `target` is imported: its packages, and it."""
    parts = target.split(".")
    prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return prefixes & modules().keys()


@cache
def reached(module: str) -> dict[str, tuple[str, ...]]:
    """All that runs when a module is imported: {top package outside, or module: the way to it}."""
    ways: dict[str, tuple[str, ...]] = {}
    waiting = [(name, (name,)) for name in carried_out(module)]
    while waiting:
        name, way = waiting.pop()
        if name in ways:
            continue
        ways[name] = way
        for item in imports_of(name):
            if not item.runs:
                continue
            if top(item.target) not in MAY_IMPORT:
                ways.setdefault(top(item.target), (*way, item.target))
            for next_name in carried_out(item.target):
                waiting.append((next_name, (*way, next_name)))
    return ways


def where(module: str, item: Import) -> str:
    return f"{modules()[module].relative_to(ROOT)}:{item.line} imports {item.target}"


def test_every_folder_is_in_the_table():
    folders = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert folders - {"tests"} == set(FOLDERS)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_run_downwards_only(folder):
    allowed = MAY_IMPORT[folder] | {folder}
    wrong = []
    for module in modules():
        if top(module) != folder:
            continue
        for item in imports_of(module):
            of_project = top(item.target) in MAY_IMPORT or top(item.target) == "tests"
            if of_project and top(item.target) not in allowed:
                wrong.append(where(module, item))
    assert not wrong


def test_a_scan_is_read_without_the_finders():
    """The finders look into headers, so reading them cannot rest on the finders."""
    wrong = []
    for module in modules():
        if not module.startswith(("preparation.read.", "preparation.formats")):
            continue
        for item in imports_of(module):
            if item.target.startswith("preparation.find"):
                wrong.append(where(module, item))
    assert not wrong


@pytest.mark.parametrize("start", FREE_OF)
def test_what_is_heavy_stays_out(start):
    wrong = []
    for module in modules():
        if top(module) == start:
            ways = reached(module)
            wrong += [" -> ".join(ways[name]) for name in FREE_OF[start] if name in ways]
    assert not wrong


@pytest.mark.parametrize("room", ["batch", "fuse", "optimum", "outputs", "published", "trained"])
def test_fusing_at_native_voxels_waits_for_no_package_that_it_does_not_use(room):
    ways = reached(f"inference.{room}")
    assert not {"monai", "tensorboard"} & ways.keys()


def test_optional_packages_come_through_their_door():
    wrong = []
    for module in modules():
        for item in imports_of(module):
            if top(item.target) in OPTIONAL and not item.is_for_types:
                wrong.append(where(module, item))
    assert not wrong


def test_imports_stand_at_the_top():
    wrong, mended = [], set(INSIDE_FUNCTIONS)
    for module, file in modules().items():
        name = file.relative_to(ROOT).as_posix()
        inside = [where(module, item) for item in imports_of(module) if item.is_inside]
        if name in INSIDE_FUNCTIONS:
            mended -= {name} if inside else set()
        else:
            wrong += inside
    assert not wrong
    assert not mended, "take these off the list"


def test_the_lazy_door_is_the_scripts_and_leads_somewhere():
    for module in modules():
        for item in imports_of(module):
            if item.is_lazy:
                assert module in SCRIPTS or module in LAZY, where(module, item)
                assert item.target in modules(), where(module, item)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_can_be_overlooked(folder):
    for package in [ROOT / folder, *(ROOT / folder).rglob("*/")]:
        names = [file.name for file in package.glob("*.py") if file.name != "__init__.py"]
        assert len(names) <= MOST_MODULES, package


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_short(script):
    assert len((ROOT / f"{script}.py").read_text("utf-8").splitlines()) < MOST_LINES


def test_the_reader_of_imports():
    source = """
import a.b
from . import c
from ..d import e
if TYPE_CHECKING:
    import f
def g():
    import h
lazy("i.j")
optional.lazy("k")
"""
    found = {item.target: item for item in read_imports(source, "p.q")}
    assert list(found) == ["a.b", "p.q.c", "p.d.e", "f", "h", "i.j", "k"]
    assert [name for name, item in found.items() if item.runs] == ["a.b", "p.q.c", "p.d.e"]
    assert found["f"].is_for_types and found["h"].is_inside and found["k"].is_lazy
