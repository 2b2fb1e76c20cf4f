"""Errors are one line wherever they come from, and notices can be listened to."""

import pickle

import pytest

from utils.errors import InputError, hearing, notice, report

LINE = "a.nii: no such file; check the path"


def test_an_error_is_one_line(capsys):
    error = InputError("a.nii", "broken\nin two lines", "mend it")
    assert str(error) == "a.nii: broken in two lines; mend it"
    report(error)
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize("kind", ["input", "package", "output", "final"])
def test_an_error_comes_whole_out_of_a_pickle(kind):
    error = pickle.loads(pickle.dumps(InputError("a.nii", "no such file", "check the path", kind)))
    assert type(error) is InputError and str(error) == LINE
    assert (error.source, error.problem, error.remedy) == (
        "a.nii",
        "no such file",
        "check the path",
    )
    assert error.kind == kind


def test_notices_are_heard_and_printed(capsys):
    notice("before")
    with hearing() as outer:
        notice("one")
        with hearing() as inner:
            notice("two")
        notice("three")
    notice("after")
    assert outer == ["one", "two", "three"] and inner == ["two"]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"notice: {text}" for text in ("before", "one", "two", "three", "after")]


def test_listening_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), hearing() as heard:
        raise ZeroDivisionError
    notice("not for it")
    assert heard == []
