"""The tables and curves of a run that was killed and goes on, and on a disk that is full."""

import resource
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.runs import table
from training import checkpoint
from training.runlog import RunLog
from training.validation import Example
from utils.errors import InputError


def write_epochs(folder, epochs, done=0, pictured=True):
    """A run of two steps an epoch; returns the log without closing it."""
    log = RunLog(folder, done, 2 * done)
    volume = np.zeros((4, 4, 4))
    for epoch in epochs:
        for step in (2 * epoch - 1, 2 * epoch):
            log.step(step, {"loss/total": 1 / step})
        log.epoch(epoch, {"loss/total": 1 / epoch, "waiting": 0})
        log.scores(epoch, "dc2fusion", {"ssim": (0.5, 0.1, 3)})
        if pictured:
            log.example(epoch, "dc2fusion", Example("s1", volume, volume, volume))
        log.flush()
    return log


def events(folder, run):
    return EventAccumulator(str(folder / "log" / run)).Reload()


@pytest.fixture
def resumed(tmp_path):
    """A run that was killed in its third epoch, and went on after the second."""
    write_epochs(tmp_path, [1, 2, 3])
    # TensorBoard reads its files by second and process, then by a number as text: 10 before 9.
    time.sleep(1 - time.time() % 1)
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
    write_epochs(tmp_path, [1], pictured=False)
    assert [e.step for e in events(tmp_path, "training").Scalars("loss/total")] == [1, 2]


def test_a_row_that_was_cut_short_goes(tmp_path):
    write_epochs(tmp_path, range(1, 13), pictured=False).close()
    path = tmp_path / "losses.csv"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-1]) + b"1")  # of 12
    RunLog(tmp_path, 11, 22).close()
    assert path.read_bytes().splitlines(keepends=True) == whole[:-1]


@pytest.fixture
def full_disk():
    """Function that makes every file end at 4 KiB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_steps(log):
    for step in range(20000):
        log.step(step, {"loss/total": 1.0, "loss/structure": 2.0})


@pytest.mark.parametrize("finished", [False, True])
def test_a_full_disk_is_one_line_with_a_remedy_that_can_be_followed(
    tmp_path, full_disk, capfd, finished
):
    if finished:
        (tmp_path / checkpoint.LAST).write_bytes(b"x")
    log = RunLog(tmp_path)
    full_disk()
    with pytest.raises(InputError) as caught:
        write_steps(log)
    error = caught.value
    assert error.kind == "output" and "cannot be written (File too large)" in error.problem
    assert ("--resume" in error.remedy) == finished
    assert ("start again" in error.remedy) == (not finished)
    assert capfd.readouterr().err == ""  # no traceback of TensorBoard's thread


def test_tables_on_a_full_disk(tmp_path, full_disk):
    log = RunLog(tmp_path)
    full_disk()
    with pytest.raises(InputError, match="cannot be written"):
        for epoch in range(2000):
            log.epoch(epoch, {"loss/total": 1.0})


def test_a_checkpoint_on_a_full_disk(tmp_path, full_disk):
    full_disk()
    content = {"model": {"weight": checkpoint.torch.zeros(5000)}}
    with pytest.raises(InputError, match="start again, no epoch was finished"):
        checkpoint.save(tmp_path / checkpoint.LAST, content)
    assert list(tmp_path.iterdir()) == []
