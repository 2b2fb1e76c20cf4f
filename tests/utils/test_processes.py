"""Tasks in processes: whatever one of them does, the others are done and nothing stays behind."""

import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.golden import ROOT as REPOSITORY
from tests.helpers.tasks import behave, hang_at, is_alive, wait_until
from utils.processes import TASKS_PER_PROCESS, Task, default_jobs, run_tasks


def tasks(tmp_path, *names):
    return [Task(name, name, tmp_path / "logs" / f"{i}-{name}.log") for i, name in enumerate(names)]


@pytest.mark.parametrize("jobs", (1, 3))
def test_every_task_has_its_outcome_whatever_the_others_do(tmp_path, jobs):
    names = ("one", "refuse", "crash", "two", "raise", "hang", "refuse for good", "three")
    outcomes = {
        o.task.name: o for o in run_tasks(behave, tasks(tmp_path, *names), jobs, limit_s=1.0)
    }
    assert sorted(outcomes) == sorted(names)
    assert [name for name in names if outcomes[name].is_final] == ["refuse for good"]
    assert {name: outcomes[name].result for name in ("one", "two", "three")} == {
        "one": "ONE",
        "two": "TWO",
        "three": "THREE",
    }
    assert outcomes["one"].problem is None
    assert outcomes["refuse"].problem == "scan.nii: is bad; mend it"
    assert (
        outcomes["raise"].problem.startswith("ZeroDivisionError first line; ")
        and "second" not in outcomes["raise"].problem
    )
    assert "SIGSEGV" in outcomes["crash"].problem
    assert (
        "stopped after" in outcomes["hang"].problem and "--time-limit" in outcomes["hang"].problem
    )
    assert all("\n" not in outcome.problem for outcome in outcomes.values() if outcome.problem)
    assert outcomes["hang"].seconds == pytest.approx(1.0, abs=0.5)


def test_what_tasks_print_goes_to_their_logs(tmp_path, capfd):
    list(run_tasks(behave, tasks(tmp_path, "one", "raise"), 1, limit_s=30))
    one, raised = sorted((tmp_path / "logs").iterdir())
    assert one.read_text().splitlines() == ["python says one", "another program says one"]
    assert "Traceback" in raised.read_text() and "second line" in raised.read_text()
    assert capfd.readouterr() == ("", "")


def test_any_limit_is_taken_and_logs_are_no_programs(tmp_path):
    (outcome,) = run_tasks(behave, tasks(tmp_path, "one"), 1, limit_s=60e6)
    assert outcome.result == "ONE" and not outcome.task.log.stat().st_mode & 0o111


def test_processes_are_replaced_after_some_tasks(tmp_path):
    pids = [
        o.result
        for o in run_tasks(
            os.getpgid, [Task(str(i), 0, tmp_path / str(i)) for i in range(3)], 1, 30
        )
    ]
    assert len(pids) == 3
    many = tasks(tmp_path, *["x"] * (TASKS_PER_PROCESS + 1))
    assert [o.result for o in run_tasks(behave, many, 1, 30)] == ["X"] * len(many)


def test_leaving_early_leaves_no_process(tmp_path):
    at = [tmp_path / "a", tmp_path / "b"]
    waiting = [Task("quick", tmp_path / "missing" / "c", tmp_path / "log")]
    waiting += [Task(path.name, path, tmp_path / f"{path.name}.log") for path in at]
    outcomes = run_tasks(hang_at, waiting, 3, limit_s=600)
    assert "No such file" in next(outcomes).problem
    wait_until(lambda: all(path.exists() for path in at))
    outcomes.close()
    assert not any(is_alive(int(path.read_text())) for path in at)


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process at once that its parent is gone"
)
@pytest.mark.parametrize("number", (signal.SIGKILL, signal.SIGINT))
def test_processes_end_with_their_parent(tmp_path, number):
    at = [tmp_path / "a", tmp_path / "b"]
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal\n"
        "from pathlib import Path\n"
        "from tests.helpers.tasks import hang_at\n"
        "from utils.processes import Task, run_tasks\n"
        "if __name__ == '__main__':\n"
        # A shell's background job, as tests may be, inherits that Ctrl-C is ignored.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    paths = [Path(name) for name in {[str(path) for path in at]}]\n"
        "    tasks = [Task(p.name, p, p.with_suffix('.log')) for p in paths]\n"
        "    list(run_tasks(hang_at, tasks, 2, 600))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: all(path.exists() for path in at))
        parent.send_signal(number)
        parent.wait(20)
        wait_until(lambda: not any(is_alive(int(path.read_text())) for path in at), 5)
    finally:
        parent.kill()


def test_default_jobs_is_what_fits():
    assert 1 <= default_jobs(1) <= os.cpu_count()
    assert default_jobs(1 << 60) == 1
