"""The mark of a folder that shards are being written to: its tars are not all there, or too many.

``graft-shards.unfinished`` is written before the first shard and removed after the index. So what
an attempt left that was killed is told from tars of others, which nothing overwrites. It names the
attempt: of two at once, which no lock keeps apart in a store, the first to have begun gives up.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from uuid import uuid4

from tasks.download.shard_folder import Folder
from tasks.download.shards import INDEX_FILE, SHARD
from tasks.errors import DataError
from tasks.retry import with_retries
from tasks.words import listed, printable

log = logging.getLogger(__name__)

UNFINISHED = "graft-shards.unfinished"
SAYS = b"graft shards --output began to write here; it removes this file when all is written.\n"
MARK_BYTES = 1_000  # at most
# what an attempt leaves: its shards, and one that was on its way into the folder
_LEFT = re.compile(r"(train|val|test)-[0-9]{6,}\.tar|\.(train|val|test)-[0-9]{6,}\.tar\.[a-z0-9_]+")


def refuse_others(folder: Folder, sizes: Mapping[str, int]) -> None:
    """Raise ``DataError`` where shards in ``folder`` have no index, and no attempt left them."""
    shards = [name for name in sizes if SHARD.fullmatch(name)]
    if shards and INDEX_FILE not in sizes and UNFINISHED not in sizes:
        raise DataError(
            f"{printable(folder.url)} has shards and no {INDEX_FILE}: {listed(shards)}.\n"
            "Name an empty folder; shards that are whole get an index by graft shards --index."
        )


def refuse_unfinished(folder: Folder, sizes: Mapping[str, int]) -> None:
    """Raise ``DataError`` where ``folder`` is what an attempt left: nothing indexes that."""
    if UNFINISHED in sizes:
        raise DataError(
            f"{printable(folder.url)} has {UNFINISHED}: graft shards --output is at work there, or "
            "was stopped.\nRun that to its end, or remove the folder."
        )


def begin(folder: Folder) -> str:
    """Mark the folder before anything else is written; return the attempt's name."""
    attempt = uuid4().hex
    with_retries(folder.write, SAYS + attempt.encode(), UNFINISHED)
    return attempt


def refuse_overtaken(folder: Folder, attempt: str) -> None:
    """Raise ``DataError`` where another attempt has begun in ``folder`` since, or has ended."""
    try:
        said = with_retries(folder.read, UNFINISHED, MARK_BYTES)
    except DataError as fault:
        if not isinstance(fault.__cause__, FileNotFoundError):
            raise
        said = b""
    if not said.endswith(attempt.encode()):
        raise DataError(
            f"Another graft shards has begun to write to {printable(folder.url)} meanwhile.\n"
            "Let it end, or stop it and run this one again; one at a time writes to a folder."
        )


def clear(folder: Folder, kept: Collection[str]) -> None:
    """Remove what earlier attempts left, but for ``kept``; only of a folder that is marked."""
    left = [name for name in folder.sizes() if _LEFT.fullmatch(name) and name not in kept]
    for name in left:
        with_retries(folder.remove, name)
    if left:
        log.info("removed what an earlier attempt left: %s", listed(left))


def end(folder: Folder) -> None:
    """Take the mark away, after everything else."""
    with_retries(folder.remove, UNFINISHED)
