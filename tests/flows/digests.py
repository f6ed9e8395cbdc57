"""The digest of a file, computed again only when the file may be another."""

from __future__ import annotations

import hashlib
import time
from functools import lru_cache
from pathlib import Path

SETTLED_NS = 1_000_000_000  # two changes within a tick of the kernel's clock have one time


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    The kernel sets ``ctime`` at every change, whatever a program does to the other times: a file of
    the same inode, size and ``ctime`` is the same, unless it was changed just now.
    """
    found = path.stat()
    if time.time_ns() - found.st_ctime_ns < SETTLED_NS:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _digest(path, found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


@lru_cache(maxsize=100_000)
def _digest(path: Path, *_state: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
