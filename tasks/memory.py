"""The C library's memory: what it keeps for threads and for steps, and what it gives back.

Images of every size come and go in several threads. Each thread takes memory from an arena, and
what it leaves there between what stays is of no use to the others. And the layers of a network take
and give back tens of MB in each step. Only glibc has these functions; elsewhere they do nothing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

# malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_NAME = "MALLOC_ARENA_MAX"  # the same for a process that starts, mallopt(3)
_OTHERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
_PIECES = 65_536  # that the system may be asked for, unless told otherwise
_LARGE = 32 * 2**20  # bytes: what counts as large in the end, by itself, where such come and go


def share_one_arena() -> None:
    """Let all threads take memory from one arena, here and in the processes that this one starts.

    To be called before the first thread is started: arenas that are there stay in use. What the
    environment says of it already stands. Source: mallopt(3), M_ARENA_MAX.
    """
    if _NAME in os.environ:
        return
    os.environ[_NAME] = "1"
    _tell((_ARENA_MAX, 1))


def return_fragments() -> None:
    """Return to the system what is kept of memory that was given back. Source: malloc_trim(3)."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class _Depth:
    """How many blocks keep pages at the moment; Prefect may run several tasks at once."""

    def __init__(self) -> None:
        self.lock, self.blocks = Lock(), 0


_keeping = _Depth()


@contextmanager
def pages_kept() -> Iterator[None]:
    """Let memory that is given back in this block be used again, and return it at the end.

    glibc asks the system anew for each large piece, and the system clears every page of it: on a
    CPU up to a third of the time of training steps (docs/benchmarks.md). What the environment says
    of it stands. Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if any(name in os.environ for name in _OTHERS):
        yield
        return
    with _keeping.lock:
        _keeping.blocks += 1
        _tell((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))  # ask for none; never return any
    try:
        yield
    finally:
        with _keeping.lock:
            _keeping.blocks -= 1
            if _keeping.blocks == 0:
                _tell(
                    (_MMAP_MAX, _PIECES), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, 2 * _LARGE)
                )
                return_fragments()


def _tell(*settings: tuple[int, int]) -> None:
    with suppress(AttributeError):
        for setting in settings:
            ctypes.CDLL(None).mallopt(*setting)
