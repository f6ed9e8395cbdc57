"""A clock that is set, by an hour or by years: what is in use stays, and what is later counts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tasks.artifacts import folder_atomic
from tasks.cleanupconfig import CachesRule
from tasks.finetune import session
from tasks.finetune.feature_disk import make_room
from tasks.leftovers import Item, days_since, look_at, moment, remove
from tasks.oldcaches import plan_caches, remove_cache
from tasks.use import in_use

YEAR = 365 * 86400.0
ENTRY = "a" * 64


def set_back(path: Path, seconds: float) -> None:
    """Date everything in ``path`` as a clock did that was then set forward."""
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("kind", ["prepared", "features"])
def test_what_is_being_written_stays_however_old_it_seems(kind, tmp_path):
    rule = CachesRule(folder=tmp_path, days=1)
    with folder_atomic(tmp_path / kind / ENTRY) as scratch:
        (scratch / "images").write_bytes(b"half")
        set_back(scratch, YEAR)
        (item,) = plan_caches(rule)
        assert (item.goes, item.why) == (False, "in use")
        assert remove_cache(rule, item.model_copy(update={"goes": True})).why == "in use"
        make_room(tmp_path / kind, 1)  # which removes scratch folders of killed processes as well
        (scratch / "labels").write_bytes(b"the rest")
    assert {path.name for path in (tmp_path / kind / ENTRY).iterdir()} == {"images", "labels"}
    left = tmp_path / kind / f".{ENTRY}.abcd1234"
    left.mkdir()
    set_back(left, YEAR)
    assert [item.goes for item in plan_caches(rule) if item.name.endswith(left.name)] == [True]
    make_room(tmp_path / "features", 1)
    assert left.exists() == (kind == "prepared")


def test_features_that_are_read_stay_however_little_room_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.finetune.feature_disk.MOST", 5)
    busy, free = (tmp_path / (letter * 64) for letter in "ab")
    for folder in (busy, free):
        folder.mkdir()
        (folder / "train.features").write_bytes(bytes(10))
    with in_use([busy]):
        os.utime(busy, (0, 0))  # as of the time before a clock was right
        make_room(tmp_path, 1)
    assert busy.is_dir()
    assert not free.exists()


def test_a_use_by_a_clock_that_was_set_back_is_a_use(tmp_path):
    entry = tmp_path / "prepared" / ENTRY
    entry.mkdir(parents=True)
    set_back(entry, YEAR)
    (item,) = plan_caches(CachesRule(folder=tmp_path))
    assert item.goes
    set_back(entry, 2 * YEAR)  # used by a run in between, at that clock's time
    assert remove_cache(CachesRule(folder=tmp_path), item).why == "used meanwhile"
    assert entry.is_dir()


def test_what_is_dated_ahead_is_young(tmp_path):
    entry = tmp_path / "prepared" / ENTRY
    entry.mkdir(parents=True)
    set_back(entry, -12 * YEAR)
    (item,) = plan_caches(CachesRule(folder=tmp_path, days=0, gigabytes=0))
    assert not item.goes
    assert days_since(item.last_use) < 0


@pytest.mark.parametrize("seconds", [-1e18, -1.0, 2.0**31 + 1, 2.0**33, 1e18])
def test_every_time_of_a_file_is_a_date(seconds):
    assert 1970 <= moment(seconds).year <= 9999
    if 0 < seconds < 1e12:
        assert moment(seconds).timestamp() == seconds


def test_a_file_that_goes_while_it_is_looked_at_is_gone(tmp_path):
    item = Item(kind="cache", name="x", size=1, last_use=moment(0.0), goes=True, why="old")
    found = remove(tmp_path / "x", item, lambda path: moment(look_at(path).changed))
    assert found.why == "gone meanwhile"


def test_the_token_of_a_command_that_runs_stays(tmp_path):
    with session._token(tmp_path) as token:
        set_back(token, YEAR)
        session._sweep(tmp_path)
        assert token.is_file()
    left = tmp_path / f"{session._MARK}of-one-that-was-killed"
    left.touch()
    set_back(left, YEAR)
    session._sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
