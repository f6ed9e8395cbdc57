"""Numbers in files, sorted there: as in memory, whatever the pieces are, and on a full disk."""

from __future__ import annotations

import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tasks import spilled
from tasks.errors import ResourceError
from tasks.spilled import Spilled, by_value, cut

ROW = np.dtype([("value", "<u8"), ("kind", "u1")])


@pytest.mark.parametrize("piece", [1, 7, 100, 5_000])
@pytest.mark.parametrize("most", [2, 50, 2**64 - 1])
def test_rows_are_sorted_as_in_memory(piece: int, most: int, monkeypatch):
    monkeypatch.setattr(spilled, "PIECE", piece)
    draw = np.random.default_rng(piece)
    for n in (0, 1, piece, 150):
        rows = np.empty(n, ROW)
        rows["value"] = draw.integers(0, most, n, np.uint64, endpoint=True)
        rows["kind"] = draw.integers(0, 3, n)
        numbers = [*by_value(cut(rows["value"]), np.uint64)]
        assert np.concatenate([rows["value"][:0], *numbers]).tolist() == sorted(rows["value"])
        pieces = [*by_value(cut(rows), ROW)]
        values = [value for piece in pieces for value in piece["value"].tolist()]
        assert values == sorted(values)
        assert sorted(row for piece in pieces for row in piece.tolist()) == sorted(rows.tolist())


def test_what_is_appended_is_read_back_and_nothing_has_a_name(tmp_path: Path):
    with Spilled(np.uint64, tmp_path) as file:
        parts = [file.append(np.arange(start, start + 5, dtype=np.uint64)) for start in (0, 5, 10)]
        assert [part.start for part in parts] == [0, 5, 10]
        assert file.read(parts[1]).tolist() == [5, 6, 7, 8, 9]
        assert np.concatenate([*file.pieces()]).tolist() == list(range(15))
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Spilled(np.uint64, tmp_path) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(ResourceError, match=f"The disk is full while writing {tmp_path}"):
                file.append(np.arange(20, dtype=np.uint64))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_sorting_holds_a_few_pieces():
    draw = np.random.default_rng(0)
    tracemalloc.start()
    pieces = (draw.integers(0, 2**63, spilled.PIECE, np.uint64) for _ in range(10))
    assert sum(map(len, by_value(pieces, np.uint64))) == 10 * spilled.PIECE
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * 8 * spilled.PIECE, most / (8 * spilled.PIECE)
