"""Folders of the cache that are filled once, and filled again when a file of theirs is gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.artifacts import folder_atomic, sha256_parts, write_atomic
from tasks.use import mark_used

FILES = "files"
SEAL = "seal"


def sealed(target: Path, fill: Callable[[Path], None]) -> Path:
    """Return ``target/files`` with just what ``fill`` wrote into it, now or in an earlier run.

    ``target/seal`` holds a digest of the names and sizes. Where they are no longer those, or there
    is nothing yet, ``fill`` is called with an empty folder; when it raises, ``target`` is as it
    was. Raises what ``fill`` does, and ``ResourceError``.
    """
    files = target / FILES
    if not _is_whole(target):
        with folder_atomic(target) as scratch:
            (scratch / FILES).mkdir()
            fill(scratch / FILES)
            write_atomic(scratch / SEAL, _seal(scratch / FILES).encode())
            if target.is_dir() and not _is_whole(target):
                shutil.rmtree(target)  # a whole one was made by another process meanwhile
    mark_used(target)
    return files


def _is_whole(target: Path) -> bool:
    try:
        return (target / SEAL).read_bytes() == _seal(target / FILES).encode()
    except (FileNotFoundError, NotADirectoryError):
        return False


def _seal(folder: Path) -> str:
    """Digest the relative name and size of every file; a second for a million of them."""
    found = sorted((os.path.relpath(path, folder), size) for path, size in _sizes(str(folder)))
    return sha256_parts(*(part for name, size in found for part in (name, str(size))))


def _sizes(folder: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            else:
                yield entry.path, entry.stat(follow_symlinks=False).st_size
