"""Numbers that memory need not hold: files without a name take them, and they are sorted in runs.

What such a file holds is gone when the process ends, however it ends. It is read and written by
calls rather than mapped: a full disk is an error then and no signal, and any file system will do.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tasks.artifacts import disk_errors

PIECE = 1 << 17  # rows that memory holds at a time; of 8 bytes, 1 MiB

Rows: TypeAlias = npt.NDArray[Any]  # numbers (n,), or records that have one each as ``value``


class Spilled:
    """Rows of one type in a file of ``folder``, or where temporary files go; threads may append.

    Raises ``ResourceError`` where the disk is full or takes no file, as ``append`` does.
    """

    def __init__(self, row: npt.DTypeLike, folder: Path | None = None) -> None:
        self.row, self.folder = np.dtype(row), folder
        self._rows, self._adding = 0, Lock()
        with self._errors():
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - __exit__ closes it
                buffering=0, dir=folder
            )

    def __len__(self) -> int:
        return self._rows

    def __enter__(self) -> Spilled:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, rows: Rows) -> range:
        """Write ``rows`` behind all others, and return their numbers."""
        content = memoryview(rows.astype(self.row, copy=False).tobytes())
        with self._adding, self._errors():
            at = self._rows * self.row.itemsize
            while content:  # a disk that fills up takes a part
                written = os.pwrite(self._file.fileno(), content, at)
                content, at = content[written:], at + written
            start, self._rows = self._rows, self._rows + len(rows)
        return range(start, self._rows)

    def read(self, numbers: range) -> Rows:
        """Return the rows of these numbers, one after the other; none is written any more."""
        size = self.row.itemsize
        content = os.pread(self._file.fileno(), len(numbers) * size, numbers.start * size)
        return np.frombuffer(content, self.row)

    def pieces(self) -> Iterator[Rows]:
        """Yield all rows, a piece at a time."""
        numbers = range(self._rows)
        return (self.read(numbers[start : start + PIECE]) for start in numbers[::PIECE])

    def _errors(self) -> AbstractContextManager[None]:
        return disk_errors(str(self.folder or tempfile.gettempdir()))


def cut(rows: Rows) -> Iterator[Rows]:
    """Yield an array a piece at a time."""
    return (rows[start : start + PIECE] for start in range(0, len(rows), PIECE))


def by_value(
    pieces: Iterable[Rows], row: npt.DTypeLike, folder: Path | None = None
) -> Iterator[Rows]:
    """Yield the rows of ``pieces`` sorted by value, a piece at a time; equal ones in any order.

    Each piece is sorted in memory into a run in a file, and the runs are merged (Knuth, The Art of
    Computer Programming 3, 5.4). Raises as ``Spilled``.
    """
    with Spilled(row, folder) as file:
        runs = [_Run(file, file.append(_sorted(piece))) for piece in pieces]
        yield from _merged(runs)


class _Run:
    """A sorted part of a file, whose next rows are in memory."""

    def __init__(self, file: Spilled, numbers: range) -> None:
        self._file, self._left = file, numbers
        self.held: Rows = np.empty(0, file.row)

    def fill(self, room: int) -> None:
        """Read on, until as many rows are held or none is left."""
        wanted = self._left[: max(room - len(self.held), 0)]
        if wanted:
            self.held = np.concatenate([self.held, self._file.read(wanted)])
            self._left = self._left[len(wanted) :]

    def take(self, most: np.uint64) -> Rows:
        """Return the rows up to this value, which are held no longer."""
        n = np.searchsorted(_values(self.held), most, side="right")
        taken, self.held = self.held[:n], self.held[n:]
        return taken


def _merged(runs: list[_Run]) -> Iterator[Rows]:
    """Yield what all runs have up to the least of the last values that they hold, and so on."""
    while runs:
        for run in runs:
            run.fill(max(PIECE // len(runs), 1))
        runs = [run for run in runs if len(run.held)]
        if runs:
            most = min(_values(run.held)[-1] for run in runs)
            yield _sorted(np.concatenate([run.take(most) for run in runs]))


def _values(rows: Rows) -> npt.NDArray[np.uint64]:
    return rows["value"] if rows.dtype.names else rows


def _sorted(rows: Rows) -> Rows:
    return rows[np.argsort(rows["value"])] if rows.dtype.names else np.sort(rows)
