"""Rows are those of the file, and do not stay in the process."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.errors import DataError
from tasks.storedrows import StoredRows

ROW = 32 * 2**10  # bytes
ROWS = 6_000  # 188 MiB


def mapped_mib() -> float:
    """Return how much of files is mapped into this process. Source: proc_pid_status(5)."""
    status = Path("/proc/self/status").read_text()
    return sum(map(int, re.findall(r"Rss(?:File|Shmem):\s+(\d+) kB", status))) / 1024


def open_files() -> int:
    return psutil.Process().num_fds()


def numbered(path: Path, rows: int) -> StoredRows:
    """Write and open a file of rows, each with its number at both ends."""
    shape = (rows, ROW // 8)
    array = np.memmap(path, np.dtype("<i8"), "w+", shape=shape)
    array[:, 0] = array[:, -1] = np.arange(rows)
    array.flush()
    return StoredRows(path, np.dtype("<i8"), shape)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="told by Linux's /proc")
def test_all_rows_in_any_order_are_read_and_none_stays(tmp_path: Path):
    order = np.random.default_rng(0).permutation(ROWS).astype(np.int64)
    rows = numbered(tmp_path / "rows", ROWS)
    before = mapped_mib()
    for start in range(0, ROWS, 50):
        wanted = order[start : start + 50]
        taken = rows.take(wanted)
        assert (taken[:, 0] == wanted).all()
        assert (taken[:, -1] == wanted).all()
        assert mapped_mib() < before + 20
    assert rows.array.max() == ROWS - 1
    assert mapped_mib() > before + 150  # as a map does, which the measurement would show


def test_a_file_that_is_cut_off_is_said(tmp_path: Path):
    path = tmp_path / "rows"
    rows = numbered(path, 20)
    os.truncate(path, 10 * ROW + 1)
    assert (rows.take(np.array([9, 3]))[:, 0] == [9, 3]).all()
    with pytest.raises(DataError, match="rows was cut off"):
        rows.take(np.array([10]))
    with pytest.raises(DataError, match="rows was cut off"):
        StoredRows(path, np.dtype("<i8"), (11, ROW // 8))


def test_a_read_that_gives_less_is_gone_on_with(tmp_path: Path, monkeypatch):
    rows, preadv = numbered(tmp_path / "rows", 5), os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, into, at: preadv(file, [into[0][:1000]], at))
    expected = np.array(rows.array)
    np.testing.assert_array_equal(rows.take(np.array([4, 0])), expected[[4, 0]])


def test_a_deleted_file_is_read_on_and_closed_with_its_rows(tmp_path: Path):
    path = tmp_path / "rows"
    rows, small = numbered(path, 6), StoredRows(path, np.uint8, (6 * ROW,))
    assert small.take(np.array([2 * ROW]))[0] == 2  # which maps the file, for good
    files = open_files()
    path.unlink()
    assert (rows.take(np.array([5, 5]))[:, 0] == 5).all()
    assert small.take(np.array([ROW]))[0] == 1
    del rows
    assert open_files() == files - 1


def test_small_rows_are_what_an_array_gives_of_them(tmp_path: Path):
    expected = np.random.default_rng(1).integers(0, 256, (500, 3, 5), dtype=np.uint8)
    path = tmp_path / "rows"
    expected.tofile(path)
    rows = StoredRows(path, np.uint8, (500, 3, 5))
    wanted = np.array([7, 7, 499, 0], np.int64)
    np.testing.assert_array_equal(rows.take(wanted), expected[wanted])
    np.testing.assert_array_equal(rows.array, expected)
    taken = rows.take(wanted)
    taken[:] = 0  # a copy, that may be written to
    np.testing.assert_array_equal(rows.array, expected)


@pytest.mark.parametrize("side", [5, 100])  # px: mapped rows, and rows that are read
def test_rows_are_read_into_memory_of_another_type(tmp_path: Path, side: int):
    expected = np.random.default_rng(2).integers(0, 2**16, (9, side, side), dtype=np.uint16)
    (tmp_path / "rows").write_bytes(expected.tobytes())
    rows = StoredRows(tmp_path / "rows", np.uint16, expected.shape)
    into = np.empty((2, side, 2 * side), np.uint8)
    rows.read(np.array([8, 3]), into)
    np.testing.assert_array_equal(into.view(np.uint16), expected[[8, 3]])
