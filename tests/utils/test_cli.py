"""Errors are one line and exit status 2; programming errors keep their traceback."""

import argparse

import pytest

from utils.cli import Parser, device_numbers, loss_weight, positive_float, run
from utils.errors import InputError


def test_an_input_error_is_one_line(capsys):
    def main():
        raise InputError("a.nii", "broken\nin two lines", "mend it")

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: a.nii: broken in two lines; mend it\n"


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.mark.parametrize("returned", [None, 0, 2])
def test_the_status_is_what_main_returns(returned):
    with pytest.raises(SystemExit) as ended:
        run(lambda: returned)
    assert ended.value.code == (returned or 0)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--weight", "-1"], "error: --weight: -1 is no weight"),
        (["--weight", "x"], "error: --weight: invalid loss_weight value: 'x'; see t --help"),
        (
            ["--weigth", "1"],
            "error: command line: unrecognized arguments: --weigth 1; see t --help",
        ),
        (["--wei", "1"], "error: command line: unrecognized arguments: --wei 1; see t --help"),
        (["--kind", "c"], "error: --kind: invalid choice: 'c'"),
        (["--kind"], "error: --kind: expected one argument; see t --help"),
        ([], "error: command line: the following arguments are required: --kind; see t --help"),
    ],
)
def test_a_wrong_flag_is_one_line(capsys, flags, line):
    parser = Parser(prog="t")
    parser.add_argument("--weight", type=loss_weight)
    parser.add_argument("--kind", choices=("a", "b"), required=flags == [])
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(flags)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(line) and err.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (loss_weight, "nan"),
        (loss_weight, "inf"),
        (positive_float, "0"),
        (device_numbers, "0,0"),
        (device_numbers, "-1"),
        (device_numbers, "0,"),
    ],
)
def test_values_that_no_flag_takes(kind, text):
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        kind(text)


def test_device_numbers():
    assert device_numbers("0") == (0,)
    assert device_numbers("0,1,2,3") == (0, 1, 2, 3)
