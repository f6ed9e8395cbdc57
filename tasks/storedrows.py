"""Rows of an array in a file, copied out without the file becoming the process's memory."""

from __future__ import annotations

import math
import os
import weakref
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
    Raises ``DataError`` where the file is shorter than the array.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._bytes = math.prod(shape[1:]) * self._dtype.itemsize  # of a row
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        if os.fstat(self._file).st_size < shape[0] * self._bytes:
            raise self._cut_off()

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of a row."""
        return self._shape[1:]

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """The whole, through a map."""
        with open(self._file, "rb", closefd=False) as file:
            return np.memmap(file, self._dtype, mode="r", shape=self._shape)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return a copy of ``rows``; as ``read``."""
        if self._bytes < _SMALL:
            small: npt.NDArray[Any] = self.array[rows]
            return small
        taken = np.empty((len(rows), *self._shape[1:]), self._dtype)
        self.read(rows, taken)
        return taken

    def read(self, rows: npt.NDArray[np.int64], into: npt.NDArray[Any]) -> None:
        """Copy ``rows`` into an array (len(rows), ...) of any type that takes as many bytes.

        Raises ``DataError`` where a file of large rows was cut off since it was opened.
        """
        bytes_nb = into.view(np.uint8).reshape(len(rows), self._bytes)
        if self._bytes < _SMALL:
            small = self.array[rows]
            bytes_nb[:] = small.view(np.uint8).reshape(bytes_nb.shape)
            return
        for one, row in zip(bytes_nb, rows.tolist(), strict=True):
            self._read(one.data, row * self._bytes)

    def _read(self, into: memoryview, at: int) -> None:
        done = 0
        while done < len(into):  # some file systems give less than is asked for
            got = os.preadv(self._file, [into[done:]], at + done)
            if got == 0:
                raise self._cut_off()
            done += got

    def _cut_off(self) -> DataError:
        return DataError(f"{self._path} was cut off.\nCheck the disk, and run again.")
