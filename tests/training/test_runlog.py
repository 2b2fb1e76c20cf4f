"""The tables and curves of a run that was killed at any moment and goes on."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.runs import table
from training.runlog import RunLog
from training.validation import Example


def write_epochs(folder, epochs, done=0):
    """A run of two steps an epoch; returns the log without closing it."""
    log = RunLog(folder, done, 2 * done)
    volume = np.zeros((4, 4, 4))
    for epoch in epochs:
        for step in (2 * epoch - 1, 2 * epoch):
            log.step(step, {"loss/total": 1 / step})
        log.epoch(epoch, {"loss/total": 1 / epoch, "waiting": 0})
        log.scores(epoch, "dc2fusion", {"ssim": (0.5, 0.1, 3)})
        log.example(epoch, "dc2fusion", Example("s1", volume, volume, volume))
        log.flush()
    return log


def events(folder, run):
    return EventAccumulator(str(folder / "log" / run)).Reload()


@pytest.fixture
def resumed(tmp_path):
    """A run that was killed in its third epoch, and went on after the second."""
    write_epochs(tmp_path, [1, 2, 3])
    write_epochs(tmp_path, [3, 4], done=2).close()
    return tmp_path


def test_every_epoch_is_in_the_tables_once(resumed):
    for name in ("losses.csv", "scores.csv"):
        assert [row["epoch"] for row in table(resumed / name)] == ["1", "2", "3", "4"]


def test_every_step_and_picture_is_in_tensorboard_once(resumed):
    losses = events(resumed, "training").Scalars("loss/total")
    assert [event.step for event in losses] == list(range(1, 9))
    method = events(resumed, "dc2fusion")
    assert [event.step for event in method.Scalars("validation/ssim")] == [1, 2, 3, 4]
    assert [event.step for event in method.Images("fusion/s1")] == [1, 2, 3, 4]


def test_what_was_flushed_is_there_after_a_kill(tmp_path):
    write_epochs(tmp_path, [1])
    assert [e.step for e in events(tmp_path, "training").Scalars("loss/total")] == [1, 2]


def test_a_row_that_was_cut_short_goes(tmp_path):
    write_epochs(tmp_path, range(1, 13)).close()
    path = tmp_path / "losses.csv"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-1]) + b"1")  # of 12
    RunLog(tmp_path, 11, 22).close()
    assert path.read_bytes().splitlines(keepends=True) == whole[:-1]
