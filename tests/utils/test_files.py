"""Files appear whole or not at all."""

import pytest

from utils.errors import InputError
from utils.files import replacing, write_tsv


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "image.nii.gz"
    with replacing(path) as part:
        assert part.parent == path.parent and part.name.endswith(".image.nii.gz")
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_what_is_interrupted_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_an_error_of_the_output(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "table.tsv"
    with pytest.raises(InputError) as caught, replacing(path, "choose another --out"):
        pass
    error = caught.value
    assert error.kind == "output" and error.source == str(path)
    assert error.remedy == "choose another --out" and "cannot be written" in error.problem


def test_cells_of_a_table(tmp_path):
    path = tmp_path / "table.tsv"
    rows = [
        {"name": "a\tb\nc", "value": 1.2345678, "unused": 1},
        {"name": "\udcff", "value": None},
        {"value": 3},
    ]
    write_tsv(path, ("name", "value"), rows, "choose another --out")
    assert path.read_text() == "name\tvalue\na b c\t1.2346\n?\t\n\t3\n"
