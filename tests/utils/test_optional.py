"""Optional packages are refused in one line, heavy modules wait until they are used."""

import sys

import pytest

from utils.errors import InputError
from utils.optional import check_installed, lazy, need


def test_a_package_is_imported_by_the_name_that_pip_knows():
    assert need("pydicom").__name__ == "pydicom"
    assert need("pydicom.uid").__name__ == "pydicom.uid"


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("antspyx", "ants"),
        ("pydicom", "pydicom"),
        ("nilearn.datasets", "nilearn.datasets"),
        ("nilearn.datasets", "nilearn"),
    ],
)
def test_a_missing_package_is_one_line(monkeypatch, package, module):
    monkeypatch.delitem(sys.modules, "nilearn.datasets", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as caught:
        need(package)
    line = f"{package}: it is not installed; pip install -r requirements-prep.txt"
    assert str(caught.value) == line and caught.value.kind == "package"


def test_a_package_that_is_there_and_broken_says_why(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="cannot be imported .*no_such_package") as caught:
        need("broken_package")
    assert caught.value.kind == "package"


def test_all_missing_packages_are_named_at_once():
    check_installed(("pydicom", "numpy"), "prepare.py")
    with pytest.raises(InputError, match="prepare.py: no_such, nor_this not installed") as caught:
        check_installed(("no_such", "numpy", "nor_this"), "prepare.py")
    assert caught.value.kind == "package"


def test_a_lazy_module_waits_until_it_is_used(monkeypatch, tmp_path):
    package = tmp_path / "heavy_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "room.py").write_text("ANSWER = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    room = lazy("heavy_package.room")
    assert not {"heavy_package", "heavy_package.room"} & sys.modules.keys()
    assert room.ANSWER == 42
    assert room.__name__ == "heavy_package.room" and "heavy_package.room" in sys.modules
    with pytest.raises(AttributeError, match="heavy_package.room"):
        _ = room.no_such_thing


def test_a_lazy_module_that_is_not_there_says_so_when_it_is_used():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = lazy("no_such_module").anything
