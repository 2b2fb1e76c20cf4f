"""Errors are one line and exit status 2; programming errors keep their traceback."""

import argparse
import signal
import subprocess
import sys

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


SLEEP = """
import signal, time
from utils.cli import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
def main():
    try:
        print("here", flush=True)
        time.sleep(60)
    finally:
        print("tidied", flush=True)
run(main)
"""


@pytest.mark.parametrize(
    ("number", "line", "status"),
    [(signal.SIGTERM, b"terminated\n", 143), (signal.SIGINT, b"interrupted\n", 130)],
)
def test_a_signal_is_one_line_and_its_status_and_tidies_up(number, line, status):
    with subprocess.Popen(
        [sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as script:
        assert script.stdout.readline() == b"here\n"
        script.send_signal(number)
        out, err = script.communicate()
    assert (out, err, script.returncode) == (b"tidied\n", line, status)


def test_a_name_that_is_too_long_for_the_disk_is_one_line(run_script, tmp_path):
    status, _, err = run_script(lambda _: open(tmp_path / ("x" * 300)))
    assert status == 2 and err.startswith("error: ") and err.endswith("give a shorter name\n")
