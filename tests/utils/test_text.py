"""Lists and tables as people write them."""

import pytest

from utils.errors import InputError
from utils.text import natural_key, read_rows, read_table, read_text


def test_numbers_in_names_count_as_numbers():
    assert sorted(["s10", "s2", "a", "s02"], key=natural_key) == ["a", "s02", "s2", "s10"]


def test_a_text_without_its_mark(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfone\n")
    assert read_text(tmp_path / "list.txt") == "one\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        ("folder", "is a folder"),
        (b"\xff\xfe", "not UTF-8 text .at byte 0"),
        (b"a\0b", "not a text file"),
    ],
)
def test_what_is_no_text(tmp_path, content, problem):
    path = tmp_path / "list.txt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        read_text(path)
    assert caught.value.source == str(path)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_rows_keep_their_line_numbers(tmp_path, mark):
    path = tmp_path / "table.csv"
    lines = ["", f"a{mark} b {mark}", f'"x{mark}y"{mark}2', f"{mark}{mark}", f"{mark}3"]
    path.write_text("\n".join(lines))
    assert read_rows(path, "write one") == [
        (2, ["a", "b"]),
        (3, [f"x{mark}y", "2"]),
        (5, ["", "3"]),
    ]


def test_an_empty_list_says_what_to_write(tmp_path):
    (tmp_path / "table.csv").write_text("\n , \n")
    with pytest.raises(InputError, match="the list is empty; write one"):
        read_rows(tmp_path / "table.csv", "write one")


def test_columns_of_a_table(tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text("MRI,Note,pet\na.nii,x,b.nii\nc.nii\n")
    assert read_table(path, ("mri",), ("pet",)) == [
        (2, {"mri": "a.nii", "note": "x", "pet": "b.nii"}),
        (3, {"mri": "c.nii"}),
    ]
    assert capsys.readouterr().err == f"notice: {path}: column note is not used\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mri\na", "line 1: no column pet; begin with the header mri,pet"),
        ("mri,pet,pet\na,b,c", "two columns are called pet"),
        ("mri,pet\na,b,c", "line 2: 3 cells for 2 columns"),
    ],
)
def test_what_is_no_table(tmp_path, text, problem):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=problem):
        read_table(tmp_path / "table.csv", ("mri", "pet"), ("subject",))
