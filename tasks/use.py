"""Which folders are in use, and when they were used last: what cleaning up must know.

Whoever uses a folder holds a shared lock on a file beside it, ``.NAME.lock``, which the system lets
go of when the process ends, however it ends. Whoever removes the folder takes that lock alone. The
last use is the folder's own time of change, as of cached features.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tasks.artifacts import REFUSED

DEPTH = 2  # cache/KIND/ENTRY


def lock_file(entry: Path) -> Path:
    """Return the file that is locked while ``entry`` is in use."""
    return entry.with_name(f".{entry.name}.lock")


def entry_of(path: Path, cache: Path) -> Path | None:
    """Return the entry of ``cache`` that holds ``path``; ``None`` for what lies elsewhere."""
    try:
        parts = path.relative_to(cache).parts
    except ValueError:
        return None
    return cache.joinpath(*parts[:DEPTH]) if len(parts) >= DEPTH else None


def mark_used(entry: Path) -> None:
    """Note that ``entry`` is used now; one that is gone, or of somebody else, stays as it is."""
    with suppress(FileNotFoundError, PermissionError):
        os.utime(entry)


@contextmanager
def in_use(entries: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of ``entries`` while the block runs, and note their use now and at its end.

    Waits for one that is being removed; it need not be there afterwards. Where no lock can be
    written, as in a cache that is read-only, there is none.
    """
    with ExitStack() as held:
        for entry in entries:
            held.enter_context(_held(entry))
        yield


@contextmanager
def _held(entry: Path) -> Iterator[None]:
    path = lock_file(entry)
    try:
        handle = _locked(path, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in (*REFUSED, errno.ENOENT):  # neither is there anything to remove then
            raise
        yield
        return
    try:
        mark_used(entry)
        yield
        mark_used(entry)
    finally:
        _let_go(path, handle)


def sweep_mark(mark: Path) -> None:
    """Remove a file that says something of a running process, unless that one still uses it."""
    with alone(mark) as free:
        if free:
            mark.unlink(missing_ok=True)


@contextmanager
def alone(entry: Path) -> Iterator[bool]:
    """Yield whether nobody uses ``entry``; then nobody begins to before the block ends."""
    path = lock_file(entry)
    try:
        handle = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        _let_go(path, handle)


def is_held(entry: Path) -> bool:
    """Say whether somebody uses ``entry``; nothing is written beside it, as ``alone`` does."""
    try:
        handle = os.open(lock_file(entry), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _locked(path: Path, how: int) -> int:
    """Open and lock ``path``, which whoever held it before may have removed meanwhile."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, how)
        except BaseException:
            os.close(handle)
            raise
        if _is_still(path, handle):
            return handle
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _let_go(path: Path, handle: int) -> None:
    """Unlock, and remove the file if nobody else has it locked."""
    try:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, handle):
                path.unlink()
    finally:
        os.close(handle)
