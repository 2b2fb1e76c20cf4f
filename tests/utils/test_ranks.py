"""Processes that a launcher has started, and those that it started before in the same store."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from utils import ranks
from utils.errors import InputError
from utils.ranks import Place, agree_on_round


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ranks, "POLL_S", 0.01)


def begin(store, late, size=3):
    """The names of a round whose process `late` comes after the others."""

    def one(rank):
        time.sleep(0.1 if rank == late else 0)
        return agree_on_round(store, Place(rank, rank, size), 20)

    with ThreadPoolExecutor(size) as pool:
        return set(pool.map(one, range(size)))


def test_processes_that_are_started_again_do_not_meet_those_before():
    store = HashStore()
    rounds = [begin(store, late) for late in (0, 0, 1, 2)]
    assert [len(names) for names in rounds] == [1] * 4
    assert len(set.union(*rounds)) == 4


@pytest.mark.parametrize(("rank", "missing"), [(0, "rank 1"), (1, "rank 0")])
def test_a_process_that_does_not_appear_again_is_named(rank, missing):
    store = HashStore()
    begin(store, 1, size=2)
    with pytest.raises(InputError, match=f"{missing}: has not appeared within 0.1 s"):
        agree_on_round(store, Place(rank, rank, 2), 0.1)
