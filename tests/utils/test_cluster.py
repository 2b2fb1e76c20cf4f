"""Tasks on a Dask cluster: as in processes of this machine, whatever becomes of a worker."""

import json
import logging
import time

import pytest

from tests.helpers.tasks import behave, is_alive, kill_worker_once, wait_until
from utils.cluster import run_on_cluster
from utils.errors import InputError
from utils.processes import Task, run_tasks

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    ) as started:
        yield started


def tasks(folder, *names):
    return [Task(name, name, folder / f"{name}.log") for name in names]


def test_outcomes_are_those_of_processes_of_this_machine(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # relative logs lie where they would without a cluster
    names = ("one", "refuse", "crash", "raise", "refuse for good", "hang")
    there = tasks(tmp_path.relative_to(tmp_path), *names)
    found = {}
    for outcome in run_on_cluster(behave, there, cluster.scheduler_address, limit_s=1.0):
        found[outcome.task.name] = outcome
    assert found.keys() == set(names)
    for expected in run_tasks(behave, there, 2, limit_s=1.0):
        outcome = found[expected.task.name]
        assert outcome.task is expected.task
        assert (outcome.result, outcome.problem) == (expected.result, expected.problem)
        assert outcome.is_final == expected.is_final
    assert found["hang"].seconds == pytest.approx(1.0, abs=0.5)


def test_a_worker_that_dies_loses_nothing_and_leaves_no_process(cluster, tmp_path):
    mark = tmp_path / "mark"
    task = Task("one", mark, tmp_path / "one.log")
    (outcome,) = run_on_cluster(kill_worker_once, [task], cluster.scheduler_address, 30.0)
    assert (outcome.result, outcome.problem) == ("done again", None)
    assert not is_alive(int(mark.read_text()))


def test_leaving_early_begins_no_further_task(cluster, tmp_path):
    names = [f"task {number}" for number in range(40)]
    outcomes = run_on_cluster(behave, tasks(tmp_path, *names), cluster.scheduler_address, 30.0)
    next(outcomes)
    outcomes.close()
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        wait_until(lambda: not any(client.processing().values()))
        time.sleep(1)  # what a worker had taken already may still begin
        begun = len(list(tmp_path.iterdir()))
        time.sleep(0.2)
        assert len(list(tmp_path.iterdir())) == begun < len(names)


def test_a_scheduler_file_tells_the_address(cluster, tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": cluster.scheduler_address}))
    (outcome,) = run_on_cluster(behave, tasks(tmp_path, "one"), str(file), 30.0)
    assert outcome.result == "ONE"
    file.write_text("[]")
    with pytest.raises(InputError, match="is no scheduler file"):
        list(run_on_cluster(behave, [], str(file), 30.0))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:port", "carrier-pigeon://roof", "tls://x:1"])
def test_addresses_that_nobody_answers_at_are_one_line(address):
    with pytest.raises(InputError, match=f"--scheduler: no Dask scheduler answers at {address}"):
        list(run_on_cluster(behave, [], address, 30.0))


def test_what_a_worker_does_not_find_is_named(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    (outcome,) = run_on_cluster(behave, tasks(tmp_path, "one"), cluster.scheduler_address, 30.0)
    assert outcome.problem.startswith("a worker does not find /nowhere/python; all machines")
