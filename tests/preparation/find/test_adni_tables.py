"""ADNI's tables and lists of image ids; `rowNN` counts the known bad inputs of preparation."""

import datetime

import pytest

from preparation.find.adni_tables import read_image_ids, read_tables
from tests.helpers.adni_tables import CLASSIC, SEARCH
from utils.errors import InputError


@pytest.mark.parametrize("text", [CLASSIC, SEARCH], ids=["collection", "idaSearch"])
def test_both_dialects(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    rows = read_tables([path])
    assert list(rows) == ["I101", "I102"]
    assert rows["I102"].description == "Co-registered, Averaged" and rows["I101"].modality == "MRI"
    assert rows["I101"].date == datetime.date(2013, 5, 9)


def test_bad_tables(tmp_path):
    path = tmp_path / "table.csv"
    for text, words in (
        ("a,b\n1,2\n", "no column with image ids"),
        ("Image ID,Subject\nx1,a\n", "is no image id"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_tables([path])


class TestIds:
    @pytest.mark.parametrize(
        "text",
        [
            "I101,I102,I999\n",
            "\ufeffI101\nI102\n\nI999\n",
            'Image ID\n"101"\n102\n999\n',
            " I101 ; I102; I999;\n",
            "I101\tI102\tI999",
        ],
        ids=["row41-row", "row40-bom-column", "row41-header", "row41-semicolons", "row41-tabs"],
    )
    def test_forms(self, tmp_path, text):
        path = tmp_path / "ids.csv"
        path.write_text(text, "utf-8")
        assert read_image_ids(path) == ("I101", "I102", "I999")

    @pytest.mark.parametrize(
        "text, words", [("", "empty"), ("I1,scan7\n", "scan7"), ("a,b\n", "no image id")]
    )
    def test_bad_lists(self, tmp_path, text, words):
        path = tmp_path / "ids.csv"
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_image_ids(path)
