"""Which images a version learned from: a compact list that stays in the version's files.

The first eight bytes of each image file's SHA-256, sorted: two different files of a million share
them with a chance of 1 in 37 million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tasks.download.shards import Prefixes as Prefixes
from tasks.download.shards import prefix_of, read_prefixes
from tasks.index import ImageRecord, read_index
from tasks.preprocess.stream import read_index_of
from tasks.values import PackedSplit, PreparedDataset, StreamedSplit

LEARNED_FILE = "artifacts/learned_images.bin"
LEARNED = "graft.learned_digest"  # version tag: digest of that file
PARTLY = "graft.learned_partly"  # version tag: "true" where there may be images beside those listed


@dataclass(frozen=True, eq=False)
class Learned:
    """The images that something learned from, as far as they are known."""

    images: Prefixes = field(default_factory=lambda: np.empty(0, np.uint64))
    complete: bool = True  # there are no others

    def __or__(self, other: Learned) -> Learned:
        """Return what two learned from together."""
        images = np.union1d(self.images, other.images)
        return Learned(images, self.complete and other.complete)

    def seen_of(self, test: Sequence[ImageRecord]) -> int | None:
        """Return how many test images are among them; ``None`` if none is and not all are known.

        Of what is known in part only, it is the least that it can be.
        """
        return count_seen(self.images, test) or (0 if self.complete else None)


def learned_images(prepared: PreparedDataset) -> Prefixes:
    """Return the images that train and choose a model: those of train and validation.

    Of streamed ones eight bytes each are read, no shard; raises as ``read_prefixes`` then.
    """
    chosen = _prefixes(read_index(prepared.val.index))
    return np.unique(np.concatenate((_trained(prepared.train), chosen)))


def _trained(train: PackedSplit | StreamedSplit) -> Prefixes:
    if isinstance(train, PackedSplit):
        return _prefixes(read_index(train.index))
    images, end = np.empty(train.n, np.uint64), 0
    for part in read_prefixes(train.url, read_index_of(train)):
        images[end : end + len(part)] = part
        end += len(part)
    return images


def _prefixes(records: Sequence[ImageRecord]) -> Prefixes:
    prefixes = (prefix_of(record.sha256) for record in records)
    return np.fromiter(prefixes, np.uint64, len(records))


def to_bytes(learned: Prefixes) -> bytes:
    """Return the file's content, big-endian, in order."""
    return learned.astype(">u8").tobytes()


def from_bytes(content: bytes) -> Prefixes:
    """Return what ``to_bytes`` was given."""
    return np.frombuffer(content, ">u8").astype(np.uint64)


def count_seen(learned: Prefixes, test: Sequence[ImageRecord]) -> int:
    """Return how many test images are among those learned from; copies of a file count each."""
    return int(seen_images(learned, test).sum())


def seen_images(learned: Prefixes, records: Sequence[ImageRecord]) -> npt.NDArray[np.bool_]:
    """Tell of each image whether it is among those learned from."""
    seen_n: npt.NDArray[np.bool_] = np.isin(_prefixes(records), learned)
    return seen_n
