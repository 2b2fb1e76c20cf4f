"""A batch that is cut off in the middle of a result, by a kill and by a full disk."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import infer_sigleImage
from tests.helpers.runs import save_small_weights
from utils.cli import run

NAMES = {"one_fused.nii.gz", "one_fused.png", "one_fused.json"}


@pytest.fixture
def flags(pair, tmp_path) -> tuple:
    """Of a batch of one pair."""
    save_small_weights(tmp_path / "small.safetensors")
    (tmp_path / "pairs.csv").write_text(f"subject,mri,pet\none,{pair[0]},{pair[1]}\n")
    common = "--list", tmp_path / "pairs.csv", "--output", tmp_path / "out"
    return (*common, "--checkpoint", tmp_path / "small.safetensors")


def forked(flags: tuple, before: Callable[[], None], log: Path) -> int:
    """The exit status of the program in a process of its own, below 0 for a signal.

    Args:
        before: called there first.
        log: what it prints.
    """
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    status = 99
    try:
        with open(log, "w") as sys.stdout:
            sys.stderr = sys.stdout
            torch.set_num_threads(1)
            before()
            run(lambda: infer_sigleImage.main([str(flag) for flag in flags]))
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        os._exit(status)


def there(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_kill_between_picture_and_volume(flags, run_script, tmp_path):
    out, real = tmp_path / "out", os.replace

    def killed():
        def replace(source, target):
            if Path(target) == out / "one_fused.nii.gz":
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = replace

    assert forked(flags, killed, tmp_path / "log") == -signal.SIGKILL
    (left,) = there(out) - NAMES  # where the volume was
    assert left.startswith(".tmp-") and there(out) - {left} == NAMES - {"one_fused.nii.gz"}
    status, said, err = run_script(infer_sigleImage.main, *flags)
    assert status == 0 and "1 fused, 0 skipped" in said and "half of its result" in err
    assert there(out) == NAMES
    assert "1 skipped" in run_script(infer_sigleImage.main, *flags)[1]


def test_a_disk_that_is_full(flags, run_script, tmp_path):
    """The system refuses files of more than 20 KB: the NIfTI has less, the picture more."""

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    assert forked(flags, full, tmp_path / "log") == 2
    said = (tmp_path / "log").read_text()
    assert "one_fused.png: cannot be written (File too large)" in said
    assert "Traceback" not in said and "1 failed one" in said
    assert there(tmp_path / "out") == set()
    assert "1 fused, 0 skipped" in run_script(infer_sigleImage.main, *flags)[1]
    assert there(tmp_path / "out") == NAMES
