"""The C library's memory: what threads leave behind in it must not grow with the images.

Images of every size come and go in several threads. Each thread takes memory from an arena, and
what it leaves there between what stays is of no use to the others. Only glibc has these functions;
elsewhere they do nothing.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_ARENA_MAX = -8  # malloc.h: M_ARENA_MAX
_NAME = "MALLOC_ARENA_MAX"  # the same for a process that starts, mallopt(3)


def share_one_arena() -> None:
    """Let all threads take memory from one arena, here and in the processes that this one starts.

    To be called before the first thread is started: arenas that are there stay in use. What the
    environment says of it already stands. Source: mallopt(3), M_ARENA_MAX.
    """
    if _NAME in os.environ:
        return
    os.environ[_NAME] = "1"
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def return_fragments() -> None:
    """Return to the system what is kept of memory that was given back. Source: malloc_trim(3)."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
