"""Rows are those of the file, and do not stay in the process."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.storedrows import StoredRows

ROW = 32 * 2**10  # bytes
ROWS = 6_000  # 188 MiB


def mapped_mib() -> float:
    """Return how much of files is mapped into this process. Source: proc_pid_status(5)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssFile:\s+(\d+) kB", status)[1]) / 1024


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a file of ``ROWS`` rows, each with its number at both ends."""
    path = tmp_path / "rows"
    rows = np.lib.format.open_memmap(path, mode="w+", dtype="<i8", shape=(ROWS, ROW // 8))
    rows[:, 0] = rows[:, -1] = np.arange(ROWS)
    rows.flush()
    whole = path.read_bytes()
    path.write_bytes(whole[len(whole) - ROWS * ROW :])  # without numpy's head
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="told by Linux's /proc")
def test_all_rows_in_any_order_are_read_and_none_stays(large: Path):
    order = np.random.default_rng(0).permutation(ROWS).astype(np.int64)
    rows = StoredRows(large, np.dtype("<i8"), (ROWS, ROW // 8))
    before = mapped_mib()
    for start in range(0, ROWS, 50):
        wanted = order[start : start + 50]
        taken = rows.take(wanted)
        assert (taken[:, 0] == wanted).all()
        assert (taken[:, -1] == wanted).all()
        assert mapped_mib() < before + 20
    assert (rows.array[:, 0] == np.arange(ROWS)).all()
    assert mapped_mib() > before + 150  # as a map does, which the measurement would show


def test_a_file_that_is_cut_off_meanwhile_is_said(large: Path):
    rows = StoredRows(large, np.dtype("<i8"), (ROWS, ROW // 8))
    os.truncate(large, 100 * ROW + 1)
    assert (rows.take(np.array([99, 3]))[:, 0] == [99, 3]).all()
    with pytest.raises(DataError, match="cut off"):
        rows.take(np.array([100]))


def test_a_deleted_file_is_read_on(large: Path):
    rows = StoredRows(large, np.dtype("<i8"), (ROWS, ROW // 8))
    large.unlink()
    assert (rows.take(np.array([5, 5]))[:, 0] == 5).all()


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
