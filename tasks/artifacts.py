"""Files that are whole or not there at all, and digests that say which file it is."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tasks.errors import ConfigError, ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),  # no folder can be there
)


def sha256_bytes(content: bytes) -> str:
    """Return the hex SHA-256 (FIPS 180-4) of ``content``."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces; raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_parts(*parts: str) -> str:
    """Digest a sequence of strings so that no two sequences share an input (length-prefixed).

    A path may hold bytes that are no UTF-8 (surrogates in Python); they are told apart as well.
    """
    return sha256_each(parts)


def sha256_each(parts: Iterable[str]) -> str:
    """Digest as ``sha256_parts`` does, without holding more than one of ``parts`` at a time."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a disk that is full, and a place that takes no file, into a ``ResourceError``.

    Its message names ``what``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(
                f"The disk is full while writing {what}.\nFree some space and run again."
            ) from error
        if error.errno in REFUSED:
            raise ResourceError(
                f"Cannot write {what}: {error.strerror}.\n"
                "Check the folder and its permissions, or name another."
            ) from error
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: whole and on disk, or not at all.

    Write to a neighbour, fsync, rename, fsync the folder; raises ``ResourceError``.
    """
    with disk_errors(str(path)):
        _make_folder(path.parent)
        with file_atomic(path) as file:
            file.write(content)


@contextmanager
def file_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Yield a neighbour of ``path`` that takes its place, on disk, when the block ends well.

    Raises ``OSError``.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; /proc and its like answer that there is no such place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise ResourceError(
            f"Cannot make the folder {folder}: {error.strerror}.\nName another."
        ) from error


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, so that a rename survives a power cut."""
    sync(folder)


def sync(path: Path) -> None:
    """Put a file's content, or a folder's entries, on disk; raises ``OSError``."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def folder_atomic(target: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``target`` when the block ends well.

    On any error, Ctrl-C included, the scratch folder is removed and ``target`` is as it was. When
    another process made ``target`` meanwhile, theirs stays: content-addressed folders are equal.
    The scratch folder counts as in use: whoever cleans up need not go by its age alone, which a
    clock that is set tells wrongly.
    """
    from tasks.use import in_use  # which writes nothing itself, and knows this module

    with disk_errors(str(target)):
        _make_folder(target.parent)
        scratch = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}")
        with in_use([scratch]), gone_on_error(scratch):  # held before it is there
            scratch.mkdir()
            yield scratch
            _publish(scratch, target)


def _publish(scratch: Path, target: Path) -> None:
    paths = (path for path in scratch.rglob("*") if not path.is_symlink())
    # a disk settles many fsyncs in one go: 6,000 files in 0.5 s rather than 7 s
    with ThreadPoolExecutor(32) as pool:
        for _ in pool.map(sync, paths):
            pass
    try:
        scratch.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(scratch)
    sync_folder(target.parent)


@contextmanager
def new_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make ``parent/name``, or ``name-2`` and so on where that is taken, and yield it.

    On any error in the block, Ctrl-C included, the folder is removed with all that is in it.
    """
    with disk_errors(str(parent)):
        _make_folder(parent)
        folder = next(filter(_is_made, numbered(parent, name)))
    with gone_on_error(folder):
        yield folder


@contextmanager
def gone_on_error(folder: Path) -> Iterator[None]:
    """Remove ``folder`` with all that is in it on any error in the block, Ctrl-C included."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def numbered(parent: Path, name: str) -> Iterator[Path]:
    """Yield ``parent/name``, ``name-2`` and so on, without end."""
    yield parent / name
    yield from (parent / f"{name}-{n}" for n in itertools.count(2))


def _is_made(folder: Path) -> bool:
    """Make ``folder``, unless it is there: two runs in one second get two folders."""
    with suppress(FileExistsError):
        folder.mkdir()
        return True
    return False


def cache_folder(configured: Path | None) -> Path:
    """Return where downloads and packed images are kept: config, GRAFT_CACHE, or ~/.cache/graft.

    Raises ``ConfigError`` as ``user_folder`` does.
    """
    named = os.environ.get("GRAFT_CACHE") or "~/.cache/graft"
    return user_folder(configured if configured is not None else Path(named))


def user_folder(named: Path) -> Path:
    """Return the absolute folder that a user named, ``~`` and links followed; it need not exist.

    Raises ``ConfigError`` for an unknown ``~user``, links in a circle, and a path that is no UTF-8,
    which neither JSON nor a tracking server could hold.
    """
    try:
        path = named.expanduser().resolve()
        str(path).encode()
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        reason = "no UTF-8" if isinstance(error, UnicodeEncodeError) else str(error).rstrip(".")
        raise ConfigError(
            f"The folder {str(named)!a} cannot be used: {reason}.\nName another."
        ) from error
    return path
