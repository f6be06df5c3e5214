"""Threads read ahead, in order and within bounds."""

import threading
import time
from contextlib import closing

import pytest

from largegen.runtime.read_ahead import read_ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ahead", [0, 2, 100])
def test_results_come_in_order(workers, ahead):
    def read(item):
        time.sleep(0.001 * (item % 3))
        return item * 2

    assert list(read_ahead(read, range(20), workers, ahead)) == list(range(0, 40, 2))
    assert list(read_ahead(read, [], workers, ahead)) == []


def test_no_more_is_read_than_asked_for():
    begun = []
    with closing(read_ahead(begun.append, range(100), 4, 5)) as results:
        next(results)
        time.sleep(0.05)
        assert len(begun) <= 6  # the one in use and five more


def test_threads_read_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)
    assert len(list(read_ahead(lambda _: meeting.wait(), range(3), 3, 3))) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_at_its_turn(workers):
    def read(item):
        if item == 2:
            raise KeyError(item)
        return item

    results = read_ahead(read, range(10), workers, 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)


def test_who_stops_early_leaves_nothing_running():
    begun, before = [], threading.active_count()

    def read(item):
        begun.append(item)
        time.sleep(0.01)

    with closing(read_ahead(read, range(1000), 2, 500)) as results:
        next(results)
    assert threading.active_count() == before
    assert len(begun) < 10
