"""A pool of processes: what was stopped does not begin again."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.pool import Pool
from tasks.errors import ResourceError


def rest(started: Path) -> None:
    started.touch()
    time.sleep(60)


def test_a_pool_that_has_ended_begins_no_work(tmp_path: Path):
    before = set(multiprocessing.active_children())  # of other tests
    for end in (Pool.stop, Pool.close):
        pool = Pool(1)
        end(pool)
        with pytest.raises(ResourceError, match="It was stopped"):
            pool.carry_out(rest, tmp_path / "never")
    assert set(multiprocessing.active_children()) <= before
    assert not (tmp_path / "never").exists()


def test_work_that_is_stopped_or_waits_says_so_and_leaves_no_process(tmp_path: Path):
    before, pool = set(multiprocessing.active_children()), Pool(1)
    with ThreadPoolExecutor(3) as threads:
        works = [threads.submit(pool.carry_out, rest, tmp_path / str(n)) for n in range(3)]
        while not (begun := list(tmp_path.iterdir())):
            time.sleep(0.02)
        pool.stop()
        for work in works:
            with pytest.raises(ResourceError, match=r"It was stopped.*\n"):
                work.result(20)
    assert list(tmp_path.iterdir()) == begun
    assert set(multiprocessing.active_children()) <= before
