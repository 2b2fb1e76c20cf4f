"""A run's log on a disk that is full."""

import resource

import pytest

from training import checkpoint
from training.runlog import RunLog
from utils.errors import InputError


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
