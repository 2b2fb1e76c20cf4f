"""The book of scores: what is read out of it for the tables."""

from evaluation.scorebook import ScoreBook


def test_sessions_of_one_participant_are_averaged_first(tmp_path):
    book = ScoreBook(tmp_path / "book", {})
    for subject, value in (("a_1", 1.0), ("a_2", 3.0), ("b", 5.0)):
        book.add(subject, {("volume", "m"): {"sd": value}}, {"m": []})
    got = book.values("volume", ["m"], {"a": ["a_1", "a_2"], "b": ["b"]})
    assert got == {"m": {"sd": [2.0, 5.0]}}
