"""Rows of an array in a file, copied out without the file becoming the process's memory."""

from __future__ import annotations

import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import DataError

_SMALL = 16 * 2**10  # bytes of a row: fewer are copied out of a map in less time than read


class StoredRows:
    """An array (n, ...) in a file, which the system caches; it may be deleted meanwhile.

    What is read through a map counts as the process's own memory, in pieces of up to 2 MiB around
    each row, and in the end is the whole file. So rows are read as rows, unless they are small.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
        self._file = path.open("rb", buffering=0)
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._bytes = math.prod(shape[1:]) * self._dtype.itemsize  # of a row

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """The whole, through a map."""
        return np.memmap(self._file, self._dtype, mode="r", shape=self._shape)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return a copy of ``rows``; raises ``DataError`` where the file ends before them."""
        if self._bytes < _SMALL:
            small: npt.NDArray[Any] = self.array[rows]
            return small
        taken = np.empty((len(rows), *self._shape[1:]), self._dtype)
        for into, row in zip(taken, rows.tolist(), strict=True):
            if os.preadv(self._file.fileno(), [into], row * self._bytes) != self._bytes:
                raise DataError(
                    f"{self._path} was cut off while it was in use.\nCheck the disk and run again."
                )
        return taken
