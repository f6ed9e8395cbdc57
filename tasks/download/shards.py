"""Folders of shards: WebDataset tars of one split each, and an index that says what is in them.

``graft-shards.json`` is a ``ShardIndex``, written last: where it is, every shard is. Beside it, for
each split, ``SPLIT.digests.bin`` has the first eight bytes of each image's SHA-256, in the order of
the shards and of the images in them, so that what is in a data set is known without reading it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from tasks.artifacts import sha256_parts
from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Folder
from tasks.download.shard_tar import PIECE
from tasks.download.splits import SPLITS
from tasks.errors import DataError
from tasks.index import ImageRecord
from tasks.splitvalues import Shard, ShardIndex, SplitName
from tasks.words import printable

INDEX_FILE = "graft-shards.json"
INDEX_BYTES = 256 << 20
SHARD = re.compile(r"(train|val|test)-[A-Za-z0-9._-]{1,200}\.tar")
IMAGE_LEAST = 1_024  # bytes that a file of one byte takes in a tar: a header, and a block
PREFIX_BYTES = 8  # of a SHA-256; two of a million different files share them once in 37 million

Prefixes: TypeAlias = npt.NDArray[np.uint64]


def prefixes_file(split: SplitName) -> str:
    """Return the name of the file that says which images a split has."""
    return f"{split}.digests.bin"


def prefix_of(sha256: str) -> int:
    """Return the number that stands for an image of this digest."""
    return int(sha256[: 2 * PREFIX_BYTES], 16)


def prefixes_of(records: Sequence[ImageRecord]) -> Prefixes:
    """Return the numbers (n,) that stand for images."""
    return np.fromiter((prefix_of(r.sha256) for r in records), np.uint64, len(records))


def read_prefixes(
    url: str, index: ShardIndex, split: SplitName = "train", timeout: float = 60.0
) -> Iterator[Prefixes]:
    """Yield, for each shard of ``split`` in order, its images' prefixes, in order.

    They are the first eight bytes of each image's SHA-256 as a number. Raises ``DataError``, at the
    end if need be, where the file is not the one that the index names; else as ``read_samples``.
    """
    with open_folder(url, timeout).stream(prefixes_file(split)) as stream:
        for shard in (shard for shard in index.shards if shard.split == split):
            content = _up_to(stream.read, shard.images * PREFIX_BYTES)
            if len(content) < shard.images * PREFIX_BYTES:
                raise DataError(_changed(url, prefixes_file(split)))
            yield np.frombuffer(content, ">u8").astype(np.uint64)
        if stream.read(1) or stream.sha256() != index.prefixes[split]:
            raise DataError(_changed(url, prefixes_file(split)))


def shared_with_training(
    url: str, index: ShardIndex, records: Sequence[ImageRecord], timeout: float = 60.0
) -> list[ImageRecord]:
    """Return those of ``records`` whose file is among the training images as well, in order.

    Reads eight bytes an image and no shard; raises as ``read_prefixes``.
    """
    also_n = among(prefixes_of(records), read_prefixes(url, index, "train", timeout))
    return [record for record, also in zip(records, also_n, strict=True) if also]


def among(prefixes: Prefixes, pieces: Iterable[Prefixes]) -> npt.NDArray[np.bool_]:
    """Tell of each of ``prefixes`` (n,) whether it is in any of ``pieces``, taken one at a time."""
    sought, places = np.unique(prefixes, return_inverse=True)
    sought = np.append(sought, np.uint64(0))  # a place behind the last
    found = np.zeros(len(sought), bool)
    for piece in pieces:
        # not np.isin: it would sort all that is sought anew for every piece
        at = np.searchsorted(sought[:-1], piece)
        found[at[sought[at] == piece]] = True
    return found[places]


def _up_to(read: Callable[[int], bytes], size: int) -> bytes:
    parts, left = [], size
    while left and (part := read(min(left, PIECE))):  # what is there takes memory, not a claim
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _changed(url: str, name: str) -> str:
    return (
        f"{printable(url)}/{name} is not the file that {INDEX_FILE} names: it was changed.\n"
        "Restore it, or index the folder again."
    )


def read_shard_index(folder: Folder, sha256: str | None = None) -> tuple[ShardIndex, bytes]:
    """Return a folder's index, checked, and the file; ``sha256`` is what its digest must be.

    Raises ``DataError``, and as ``Folder.read``.
    """
    content = _read_index(folder)
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise DataError(
            f"{folder.where(INDEX_FILE)} has sha256 {found}, not {sha256}.\n"
            "The data set was changed, or data.sha256 is of another: check both."
        )
    return parse_index(content, folder.where(INDEX_FILE)), content


def _read_index(folder: Folder) -> bytes:
    try:
        return folder.read(INDEX_FILE, INDEX_BYTES)
    except DataError as fault:
        if not isinstance(fault.__cause__, FileNotFoundError):
            raise
        raise DataError(
            f"{folder.where(INDEX_FILE)} is not there.\nCheck data.path; where it names tars of "
            "your own, graft shards CONFIG --index makes it."
        ) from fault


def read_index_file(path: Path) -> ShardIndex:
    """Return the index of a copy that lies on this machine; raises ``DataError``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.\nRun again.") from error
    return parse_index(content, str(path))


def parse_index(content: bytes, where: str) -> ShardIndex:
    """Return the index that ``content`` holds; raises ``DataError`` where it contradicts itself."""
    try:
        index = ShardIndex.model_validate_json(content)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        at = ".".join(map(str, first["loc"])) or "it"
        raise DataError(f"{where} is no index of shards: {at}: {first['msg']}.") from fault
    fault_words = _contradiction(index)
    if fault_words:
        raise DataError(f"{where} cannot be right: {fault_words}.\nIndex the folder again.")
    return index


def _contradiction(index: ShardIndex) -> str:
    splits = {shard.split for shard in index.shards}
    names = [shard.name for shard in index.shards]
    if index.classes != tuple(sorted(set(index.classes))) or not index.classes:
        return "its classes are not sorted"
    if any(not SHARD.fullmatch(s.name) or not s.name.startswith(s.split) for s in index.shards):
        return "a shard's name is not SPLIT-NAME.tar"
    if len(set(names)) < len(names) or list(index.shards) != in_order(index.shards):
        return "its shards are not in order"
    if any(not 0 < shard.images <= shard.size // IMAGE_LEAST for shard in index.shards):
        return f"a shard is empty, or too small: of each image it takes {IMAGE_LEAST:,} bytes"
    if not set(index.counts) == set(index.prefixes) == splits:
        return "counts or digests are not of the splits that its shards are of"
    for split, counts in index.counts.items():
        images = sum(shard.images for shard in index.shards if shard.split == split)
        if len(counts) != len(index.classes) or min(counts) < 0 or sum(counts) != images:
            return f"the counts of {split} are not those of its shards"
    return "" if index.digest == index_digest(index.classes, index.shards) else "its digest differs"


def in_order(shards: Sequence[Shard]) -> list[Shard]:
    """Return ``shards`` as an index has them: by split, then by name."""
    return sorted(shards, key=lambda shard: (SPLITS.index(shard.split), shard.name))


def index_digest(classes: Sequence[str], shards: Sequence[Shard]) -> str:
    """Return the digest of a data set: over its classes and its shards' names and contents."""
    parts = (part for s in shards for part in (s.name, s.split, s.sha256))
    return sha256_parts(*classes, "", *parts)
