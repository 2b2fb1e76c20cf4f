"""The book of scores: what is read out of it for the tables."""

import json

import pytest

from evaluation.scorebook import Part, ScoreBook
from utils.errors import InputError


def test_sessions_of_one_participant_are_averaged_first(tmp_path):
    book = ScoreBook(tmp_path / "book", {})
    for subject, value in (("a_1", 1.0), ("a_2", 3.0), ("b", 5.0)):
        book.add(subject, {("volume", "m"): {"sd": value}}, {"m": []})
    got = book.values("volume", ["m"], {"a": ["a_1", "a_2"], "b": ["b"]})
    assert got == {"m": {"sd": [2.0, 5.0]}}


def add(book, subject, value=1 / 3):
    book.add(subject, {("volume", "m"): {"sd": value}}, {"m": [subject]})


class TestKilled:
    """An evaluation that is killed between two subjects, or while it writes, loses none."""

    def test_what_was_scored_is_there(self, tmp_path):
        book = ScoreBook(tmp_path, {})
        for subject in "abc":
            add(book, subject)
        again = ScoreBook(tmp_path, {})
        assert again.scores == book.scores and again.stamps == book.stamps
        add(again, "d")
        assert [key[2] for key in ScoreBook(tmp_path, {}).scores] == list("abcd")

    def test_half_a_line_is_no_score(self, tmp_path):
        book = ScoreBook(tmp_path, {})
        for subject in "abc":
            add(book, subject)
        new = tmp_path / "scores.jsonl"
        new.write_bytes(new.read_bytes()[:-20])
        again = ScoreBook(tmp_path, {})
        assert [key[2] for key in again.scores] == ["a", "b"]
        add(again, "c")
        add(again, "d")
        assert [key[2] for key in ScoreBook(tmp_path, {}).scores] == list("abcd")

    def test_the_tables_are_those_of_an_uninterrupted_one(self, tmp_path):
        whole, killed = ScoreBook(tmp_path / "whole", {}), ScoreBook(tmp_path / "killed", {})
        for subject in "abcd":
            add(whole, subject)
        for subject in "ab":
            add(killed, subject)
        killed = ScoreBook(tmp_path / "killed", {})
        for subject in "cd":
            add(killed, subject)
        for book in (whole, killed):
            book.close()
        for name in ("scores.csv", "scores.json"):
            texts = [(tmp_path / run / name).read_text() for run in ("whole", "killed")]
            assert texts[0] == texts[1]
        assert not (tmp_path / "whole" / "scores.jsonl").exists()

    def test_what_is_overwritten_does_not_come_back(self, tmp_path):
        book = ScoreBook(tmp_path, {})
        for subject in "abc":
            add(book, subject, 1.0)
        add(ScoreBook(tmp_path, {}, overwrite=True), "a", 2.0)
        assert ScoreBook(tmp_path, {}).scores == {("volume", "m", "a"): {"sd": 2.0}}


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 2000 + "]" * 2000, "1" * 5000, "{", "[]"),
        *('{"settings": {}, "stamps": []}', '{"settings": {}, "stamps": {"m": 3}}'),
    ],
)
def test_stamps_that_make_no_sense_are_one_line(tmp_path, text):
    add(ScoreBook(tmp_path, {}), "a")
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(InputError, match="does not say how"):
        ScoreBook(tmp_path, {})


def test_a_further_subject_costs_a_line(tmp_path):
    """And not the tables of all before it: 600 subjects would write them 600 times."""
    book = ScoreBook(tmp_path, {})
    add(book, "a")
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in ("scores.csv", "scores.json")}
    for number in range(5):
        add(book, f"s{number}")
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in before.items())
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["subject"] for line in lines] == [f"s{n}" for n in range(5)]


def test_what_several_processes_add_is_what_one_does(tmp_path):
    alone, shared = ScoreBook(tmp_path / "alone", {}), ScoreBook(tmp_path / "shared", {})
    for subject in "abcde":
        add(alone, subject)
    alone.close()
    add(shared, "a")
    shared.share()
    parts = [Part(tmp_path / "shared", rank, set(shared.scores)) for rank in (1, 2)]
    assert parts[0].has("volume", "m", "a") and not parts[0].has("volume", "m", "b")
    for book, subject in ((parts[1], "e"), (parts[0], "d"), (shared, "c"), (parts[1], "b")):
        add(book, subject)
    killed = ScoreBook(tmp_path / "shared", {})  # loses none of it, whatever the number then
    assert {key[2] for key in killed.scores} == set("abcde")
    shared.join("abcde")
    for name in ("scores.csv", "scores.json"):
        texts = [(tmp_path / run / name).read_text() for run in ("alone", "shared")]
        assert texts[0] == texts[1]
    assert not list((tmp_path / "shared").glob("*.jsonl"))
