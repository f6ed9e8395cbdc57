"""Whether the files that a value names are still there, before a cached value is used again."""

from __future__ import annotations

from tasks.index import read_index
from tasks.values import PackedSplit, PreparedDataset, RawDataset

CHANNELS = 3


def is_present(value: RawDataset | PreparedDataset) -> bool:
    """Say whether every file of ``value`` is on disk; packed files must have their full size."""
    if isinstance(value, PreparedDataset):
        return all(_split_is_present(split) for split in (value.train, value.val, value.test))
    if not value.index.is_file():
        return False
    return all((value.root / record.path).is_file() for record in read_index(value.index))


def _split_is_present(split: PackedSplit) -> bool:
    size = split.n * split.height * split.width * CHANNELS
    if not all(path.is_file() for path in (split.images, split.labels, split.index)):
        return False
    return split.images.stat().st_size == size
