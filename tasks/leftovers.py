"""What cleaning up finds, and how a folder is looked at and removed without leaving its place."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from tasks.artifacts import disk_errors
from tasks.use import alone, lock_file
from tasks.values import Value

Kind = Literal["run", "job", "upload", "cache", "version"]
DAY = 24 * 3600.0  # s
_FIRST, _LAST = 0.0, 253_402_300_799.0  # s since 1970: what a damaged disk says may be no date

log = logging.getLogger(__name__)


class Item(Value):
    """One run folder, job or upload of the studio, cache entry or version; what becomes of it."""

    kind: Kind
    name: str
    size: int | None  # bytes; None: not known
    last_use: datetime  # UTC
    goes: bool
    why: str  # it goes, or stays
    removed: bool = False

    def kept(self, why: str) -> Item:
        """Return this, staying after all."""
        return self.model_copy(update={"goes": False, "why": why})


class CleanupResult(Value):
    """All that was looked at, what goes first."""

    applied: bool
    items: tuple[Item, ...]

    def count(self, kind: Kind, goes: bool) -> int:
        """Return how many of a kind go, or stay."""
        return sum(item.kind == kind and item.goes == goes for item in self.items)

    @property
    def size(self) -> int:
        """Return how many bytes go, as far as known."""
        return sum(item.size or 0 for item in self.items if item.goes)


class Tree(NamedTuple):
    """A file or folder with all that is in it, links as they are."""

    size: int  # bytes
    changed: float  # s since 1970; the latest change of anything in it


def look_at(path: Path) -> Tree:
    """Return what ``path`` holds; no link is followed. What goes meanwhile does not count."""
    facts = [path.lstat()]
    if path.is_dir() and not path.is_symlink():
        facts += list(_inside(str(path)))
    return Tree(sum(f.st_size for f in facts[1:] or facts), max(f.st_mtime for f in facts))


def _inside(folder: str) -> Iterator[os.stat_result]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    yield from _inside(entry.path)
    except FileNotFoundError:
        return


def moment(seconds: float) -> datetime:
    """Return a time of the file system as UTC."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC)


def last_use(path: Path) -> datetime:
    """Return the latest change of anything in ``path``; raises ``FileNotFoundError``."""
    return moment(look_at(path).changed)


def days_since(when: datetime) -> float:
    """Return how many days ago that was."""
    return (datetime.now(UTC) - when).total_seconds() / DAY


def is_free(path: Path) -> bool:
    """Say whether nobody uses ``path`` now."""
    with disk_errors(str(lock_file(path))), alone(path) as free:
        return free


def remove(path: Path, item: Item, used: Callable[[Path], datetime]) -> Item:
    """Remove ``path`` unless it is in use, was used since it was looked at, or is gone.

    ``used`` tells when that was; by a clock that was set back, a later use may be of an
    earlier time. A link is never followed: neither ``path`` itself nor one inside it. Raises
    ``ResourceError`` where the folder does not let go of it.
    """
    with disk_errors(str(path)), alone(path) as free:
        if not free:
            return item.kept("in use")
        try:
            now = used(path)
        except FileNotFoundError:
            return item.kept("gone meanwhile")
        if now != item.last_use:
            return item.kept("used meanwhile")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    log.info("removed %s", path)
    return item.model_copy(update={"removed": True})
