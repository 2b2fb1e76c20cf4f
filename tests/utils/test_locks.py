"""One program at a time, and none for ever."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from utils.errors import InputError
from utils.locks import LOCK, alone_in, locked

HOLD = """
import os, sys, time
from pathlib import Path
from utils.locks import alone_in
with alone_in(Path(sys.argv[1]), "wait"):
    if os.fork():
        print("alone", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another program that is alone in `tmp_path/run`, and has a forked process of its own."""
    command = [sys.executable, "-c", HOLD, tmp_path / "run"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as found:
        assert found.stdout.readline() == b"alone\n"
        yield found
        os.killpg(found.pid, 9)


def test_the_second_program_is_refused(tmp_path, holder):
    with pytest.raises(InputError, match="run: another program is at work .*; wait"):
        with alone_in(tmp_path / "run", "wait"):
            pass
    assert (tmp_path / "run" / LOCK).exists()


def test_a_lock_dies_with_its_process_whoever_was_forked_from_it(tmp_path, holder):
    holder.kill()
    holder.wait()
    with alone_in(tmp_path / "run", "wait"):
        pass


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    with alone_in(tmp_path / "a" / "b", "wait"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with alone_in(tmp_path / "a" / "b", "wait"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def _count(path):
    for _ in range(50):
        with locked(path / LOCK, patience_s=60) as held:
            assert held
            number = int((path / "number").read_text())
            time.sleep(0.0005)
            (path / "number").write_text(str(number + 1))
            (path / LOCK).unlink()


def test_a_lock_whose_file_is_removed_still_keeps_others_out(tmp_path):
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "number").read_text() == "150"


def test_a_folder_that_an_error_leaves_empty_goes_again(tmp_path):
    with pytest.raises(InputError), alone_in(tmp_path / "new" / "run", "wait"):
        raise InputError("--flag", "is wrong", "mend it")
    assert list(tmp_path.iterdir()) == []
