"""Kills in the middle of writing; the long form is `python -m tests.endurance`."""

import signal

import pytest

from tests.endurance import PROGRAMS, attempt, leftovers, make_inputs, reference


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    ("name", "writes"),
    [
        # Two orders each, of a file and of its folder: of the configuration, two lists, a picture,
        # best.pt and last.pt; of a resumed run before the picture losses.csv and scores.csv.
        ("train", (3, 11, 8, 13)),
        ("infer", (1, 3)),
        ("evaluate", (3, 2)),
    ],
)
def test_a_killed_program_goes_on_as_if_nothing_had_been(inputs, tmp_path, name, writes):
    program = PROGRAMS[name]
    expected, _ = reference(program, inputs, tmp_path / "whole")
    log = tmp_path / "killed.log"
    for write in writes:
        status = attempt(program, inputs, tmp_path / "killed", at_write=write)
        assert status == -signal.SIGKILL, log.read_text()
        program.check(tmp_path / "killed")
    assert attempt(program, inputs, tmp_path / "killed") == 0, log.read_text()
    assert program.result(tmp_path / "killed") == expected
    assert leftovers(tmp_path / "killed") == []
