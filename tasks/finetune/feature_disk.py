"""Room on the disk for cached features: what is kept, what goes, and what would not fit."""

from __future__ import annotations

import logging
import re
import shutil
import time
from pathlib import Path

from tasks.artifacts import disk_errors
from tasks.errors import ResourceError
from tasks.use import alone

log = logging.getLogger(__name__)

MOST = 20_000_000_000  # bytes of all caches together
# s; a half-written cache of that age, and not in use, belongs to a process that was killed
_ABANDONED = 24 * 3600.0
_KEY = re.compile(r"[0-9a-f]{64}")


def free_bytes(folder: Path) -> int:
    """Return how much is free on the disk of ``folder``, which need not exist yet."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    return shutil.disk_usage(there).free


def make_room(folder: Path, need: int) -> None:
    """Remove the caches in ``folder`` that were not used for longest, to keep within ``MOST``.

    One that is being read or written stays. Raises ``ResourceError`` when the disk has
    not ``need`` bytes even then.
    """
    sizes = {path: _size(path) for path in _caches(folder)}
    for path in sorted(sizes, key=_last_use):
        if sum(sizes.values()) + need <= MOST:
            break
        if _gone(path):
            log.info("removed the cached features %s: not used for longest", path.name[:12])
            del sizes[path]
    free = free_bytes(folder)
    if need > free:
        raise ResourceError(
            f"The cached features need {need / 1e9:.2f} GB in {folder}, which has "
            f"{free / 1e9:.2f} GB free.\nFree some space, or set training.feature_cache=off."
        )


def _caches(folder: Path) -> list[Path]:
    """Return the caches; leftovers of killed processes are removed on the way."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir()]
    for path in found:
        if path.name.startswith(".") and time.time() - _last_use(path) > _ABANDONED:
            _gone(path)
    return [path for path in found if _KEY.fullmatch(path.name)]


def _gone(path: Path) -> bool:
    """Remove a cache unless somebody uses it; say whether it is gone."""
    with disk_errors(str(path)), alone(path) as free:
        if free:
            shutil.rmtree(path, ignore_errors=True)
    return free


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:  # another process removes it just now
        return 0


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
