"""The doors to what is not always there or not always wanted: optional packages, heavy modules.

    need   a package that only some of the programs use, refused in one line where it is missing
    lazy   a module of the project that is imported when it is first used; a package that it
           misses is refused in one line, too

Everything else is imported at the top of its file, which `tests/test_house.py` watches.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from utils.errors import InputError

REMEDY = "pip install -r requirements-prep.txt"
_RUN_REMEDY = "pip install -r requirements.txt"  # for what every program but prepare.py needs
_ROOT = Path(__file__).parents[1]
_MODULES = {"antspyx": "ants"}  # where a package is imported by another name than pip's


def need(package: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: as pip calls it, such as "antspyx"; a module inside it as in "nilearn.datasets".

    Raises:
        InputError: of kind "package", it is not installed or cannot be imported.
    """
    module = _MODULES.get(package, package)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        problem = f"cannot be imported ({error})"
        if isinstance(error, ModuleNotFoundError) and error.name in (module, module.split(".")[0]):
            problem = "it is not installed"
        raise InputError(package, problem, REMEDY, kind="package") from error


def check_installed(packages: Iterable[str], source: str) -> None:
    """Look for packages without importing them, all at once and before any work is done.

    Args:
        packages: as pip calls them.
        source: the program that needs them.

    Raises:
        InputError: of kind "package", with all that are missing.
    """
    missing = []
    for package in packages:
        if importlib.util.find_spec(_MODULES.get(package, package)) is None:
            missing.append(package)
    if missing:
        raise InputError(source, f"{', '.join(missing)} not installed", REMEDY, kind="package")


class _LazyModule(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(name)
        self._remedy = remedy

    def __getattr__(self, name: str) -> object:
        try:
            module = importlib.import_module(self.__name__)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if not package or (_ROOT / package).exists() or package == self.__name__.split(".")[0]:
                raise
            source, problem = package, "it is not installed"
            raise InputError(source, problem, self._remedy, kind="package") from error
        return getattr(module, name)


def lazy(name: str, remedy: str = _RUN_REMEDY) -> ModuleType:
    """A module of the project that is imported when something of it is first used.

    For the scripts, whose `--help` would else wait for PyTorch. `importlib.util.LazyLoader` does
    not do: naming `models.variants` makes it import `models`, and PyTorch with it.
    """
    return _LazyModule(name, remedy)
