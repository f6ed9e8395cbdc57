"""Which images a version learned from: a compact list that stays in the version's files.

The first eight bytes of each image file's SHA-256, sorted: two different files of a million share
them with a chance of 1 in 37 million.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tasks.index import ImageRecord, read_index
from tasks.values import PreparedDataset

Prefixes: TypeAlias = npt.NDArray[np.uint64]

LEARNED_FILE = "artifacts/learned_images.bin"
LEARNED = "graft.learned_digest"  # version tag: digest of that file
HEX_DIGITS = 16  # of eight bytes


def learned_images(prepared: PreparedDataset) -> Prefixes:
    """Return the images that train and choose a model: those of train and validation."""
    records = [*read_index(prepared.train.index), *read_index(prepared.val.index)]
    return np.unique(_prefixes(records))


def _prefixes(records: Sequence[ImageRecord]) -> Prefixes:
    prefixes = (int(record.sha256[:HEX_DIGITS], 16) for record in records)
    return np.fromiter(prefixes, np.uint64, len(records))


def to_bytes(learned: Prefixes) -> bytes:
    """Return the file's content, big-endian, in order."""
    return learned.astype(">u8").tobytes()


def from_bytes(content: bytes) -> Prefixes:
    """Return what ``to_bytes`` was given."""
    return np.frombuffer(content, ">u8").astype(np.uint64)


def count_seen(learned: Prefixes, test: Sequence[ImageRecord]) -> int:
    """Return how many test images are among those learned from; copies of a file count each."""
    return int(np.isin(_prefixes(test), learned).sum())
