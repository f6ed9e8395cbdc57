"""Which images a version learned from: a compact list that stays in the version's files.

The first eight bytes of each image file's SHA-256, sorted: two different files of a million share
them with a chance of 1 in 37 million. Lists that grow with the images lie in mapped files, which
take no memory of the process's own, and are searched, sorted and written a piece at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.artifacts import disk_errors
from tasks.download.shards import Prefixes, among, prefixes_of, read_prefixes
from tasks.index import ImageRecord, read_index
from tasks.preprocess.stream import read_index_of
from tasks.spilled import by_value, cut
from tasks.values import PreparedDataset, StreamedSplit

LEARNED_FILE = "artifacts/learned_images.bin"
LEARNED = "graft.learned_digest"  # version tag: digest of that file
PARTLY = "graft.learned_partly"  # version tag: "true" where there may be images beside those listed


@dataclass(frozen=True, eq=False)
class Learned:
    """The images that something learned from, as far as they are known.

    Of each of ``parts`` the order, and what is in it twice, mean nothing.
    """

    parts: tuple[Prefixes, ...] = ()
    complete: bool = True  # there are no others

    def __or__(self, other: Learned) -> Learned:
        """Return what two learned from together."""
        return Learned(self.parts + other.parts, self.complete and other.complete)

    def seen(self, records: Sequence[ImageRecord]) -> npt.NDArray[np.bool_]:
        """Tell of each image (n,) whether it is among them, as far as they are known."""
        return among(prefixes_of(records), self.pieces())

    def count_seen(self, records: Sequence[ImageRecord]) -> int:
        """Return how many images are among them; copies of a file count each."""
        return int(self.seen(records).sum())

    def seen_of(self, test: Sequence[ImageRecord]) -> int | None:
        """Return how many test images are among them; ``None`` if none is and not all are known.

        Of what is known in part only, it is the least that it can be.
        """
        return self.count_seen(test) or (0 if self.complete else None)

    def pieces(self) -> Iterator[Prefixes]:
        """Yield all of them, a piece at a time."""
        for part in self.parts:
            for piece in cut(part):
                yield piece.astype(np.uint64)

    def write(self, path: Path) -> None:
        """Write the file: each image once, in order, big-endian; raises ``ResourceError``."""
        with disk_errors(str(path)), path.open("wb") as file:
            for piece in _each_once(by_value(self.pieces(), np.uint64)):
                file.write(piece.astype(">u8").tobytes())


def learned_images(prepared: PreparedDataset) -> Learned:
    """Return the images that train and choose a model: those of train and validation.

    Of streamed ones eight bytes each are read, no shard; raises as ``read_prefixes`` then.
    """
    train, chosen = prepared.train, prefixes_of(read_index(prepared.val.index))
    if isinstance(train, StreamedSplit):
        return Learned((_on_disk(read_prefixes(train.url, read_index_of(train))), chosen))
    return Learned((prefixes_of(read_index(train.index)), chosen))


def read_list(path: Path, complete: bool = True) -> Learned:
    """Return what ``Learned.write`` wrote, mapped: the file may be unlinked, not changed."""
    return Learned((_mapped(path),), complete) if path.stat().st_size else Learned((), complete)


def _mapped(path: Path) -> Prefixes:
    return np.memmap(path, ">u8", "r")


def _on_disk(pieces: Iterable[Prefixes]) -> Prefixes:
    """Return ``pieces`` in one array, of a mapped file without a name."""
    with disk_errors(tempfile.gettempdir()), tempfile.TemporaryFile() as file:
        for piece in pieces:
            file.write(piece.tobytes())
        file.flush()  # blocks are had by now: a full disk is an error above, no SIGBUS below
        return np.memmap(file, np.uint64, "r") if file.tell() else np.empty(0, np.uint64)


def _each_once(pieces: Iterable[Prefixes]) -> Iterator[Prefixes]:
    """Yield each value once of sorted ones, a piece at a time."""
    last: Prefixes | None = None
    for piece in pieces:
        before = ~piece[:1] if last is None else last
        yield piece[np.diff(piece, prepend=before) != 0]
        last = piece[-1:]
