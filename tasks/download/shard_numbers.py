"""What indexing keeps of images: a few numbers of each, in files and not in memory."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.artifacts import disk_errors
from tasks.download.shard_folder import Folder
from tasks.download.shards import Prefixes
from tasks.download.splits import SPLITS
from tasks.retry import with_retries
from tasks.spilled import Rows, Spilled
from tasks.splitvalues import SplitName

IMAGE = np.dtype([("value", "<u8"), ("label", "<u4"), ("split", "u1")])
GROUP = np.dtype([("value", "<u8"), ("split", "u1")])
WAITING = 1 << 14  # images of a shard whose numbers are in memory
SCRATCH = ".graft-index-"  # begins the name of a folder that holds one file of digests for a moment


class Part(NamedTuple):
    """Which rows of the files are one shard's."""

    shard: str
    split: SplitName
    images: list[range]  # in the images' order
    groups: list[range]


class Numbers(NamedTuple):
    """Of all images eight bytes of the digest, the label's number and the split's; of groups too.

    A group of a shard is there once, or a few times.
    """

    images: Spilled  # of IMAGE
    groups: Spilled  # of GROUP

    def append(
        self, part: Part, prefixes: Prefixes, labels: npt.NDArray[np.uint32], groups: Prefixes
    ) -> None:
        """Take in further images (n,) of a shard and groups (g,); raises ``ResourceError``."""
        split = SPLITS.index(part.split)
        if len(prefixes):
            rows = np.empty(len(prefixes), IMAGE)
            rows["value"], rows["label"], rows["split"] = prefixes, labels, split
            part.images.append(self.images.append(rows))
        if len(groups):
            once = np.unique(groups)
            rows = np.empty(len(once), GROUP)
            rows["value"], rows["split"] = once, split
            part.groups.append(self.groups.append(rows))

    def counts(self, labels: int) -> npt.NDArray[np.int64]:
        """Return how many images each split has of each label: (3, labels), as ``SPLITS``."""
        counts = np.zeros(len(SPLITS) * labels, np.int64)
        for rows in self.images.pieces():
            cells = rows["split"].astype(np.int64) * labels + rows["label"]
            counts += np.bincount(cells, minlength=len(counts))
        return counts.reshape(len(SPLITS), labels)

    def digests(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield what a split's file of digests is made of, from its shards in order."""
        for part in parts:
            for numbers in part.images:
                yield self.images.read(numbers)["value"].astype(">u8").tobytes()


@contextmanager
def numbers_beside(folder: Folder) -> Iterator[Numbers]:
    """Yield empty ``Numbers``, in files that are gone afterwards; raises ``ResourceError``.

    They lie in ``folder``, of a store where temporary files go.
    """
    here = _beside(folder)
    with Spilled(IMAGE, here) as images, Spilled(GROUP, here) as groups:
        yield Numbers(images, groups)


def _beside(folder: Folder) -> Path | None:
    return None if folder.remote else Path(folder.root)


class Reading:
    """Takes in the images of one shard, of which a few wait in memory."""

    def __init__(self, numbers: Numbers, shard: str, split: SplitName) -> None:
        self.part = Part(shard, split, [], [])
        self.images = 0
        self._numbers = numbers
        self._begin()

    def _begin(self) -> None:
        # not lists, whose numbers take 40 bytes each
        self._prefixes, self._labels, self._groups = array("Q"), array("I"), array("Q")

    def add(self, prefix: int, label: int, group: int | None) -> None:
        """Take in an image; raises ``ResourceError``."""
        self.images += 1
        self._prefixes.append(prefix)
        self._labels.append(label)
        if group is not None:
            self._groups.append(group)
        if len(self._prefixes) == WAITING:
            self.flush()

    def flush(self) -> None:
        """Write down what waits."""
        prefixes, groups = (np.array(a, np.uint64) for a in (self._prefixes, self._groups))
        self._numbers.append(self.part, prefixes, np.array(self._labels, np.uint32), groups)
        self._begin()


def rows_of(
    parts: Sequence[Part], file: Spilled, *, groups: bool
) -> Iterator[tuple[str, int, Rows]]:
    """Yield shards' rows in order, a piece at a time, with the shard and the place of the first."""
    for part in parts:
        place = 0
        for numbers in part.groups if groups else part.images:
            yield part.shard, place, file.read(numbers)
            place += len(numbers)


def put_pieces(folder: Folder, name: str, pieces: Iterable[bytes]) -> str:
    """Write a file, whole or not at all, a piece of it in memory; return its SHA-256.

    Raises ``ResourceError``, and as ``Folder.put``.
    """
    digest, here = sha256(), _beside(folder)
    with (
        disk_errors(folder.where(name) if here else tempfile.gettempdir()),
        tempfile.TemporaryDirectory(prefix=SCRATCH, dir=here) as scratch,
    ):
        path = Path(scratch) / name
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        path.chmod(0o644)
        with_retries(folder.put, path, name)
    return digest.hexdigest()
