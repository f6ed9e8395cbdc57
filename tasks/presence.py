"""Whether the files that a value names are still there, before a cached value is used again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.index import read_index
from tasks.values import PackedSplit, PreparedDataset, RawDataset, StreamedSplit

CHANNELS = 3


def is_present(value: RawDataset | PreparedDataset) -> bool:
    """Say whether every file of ``value`` is on disk; packed files must have their full size."""
    try:
        if isinstance(value, PreparedDataset):
            return all(_is_whole(split) for split in (value.train, value.val, value.test))
        if value.shards is not None and not value.shards.is_file():
            return False
        return all((value.root / record.path).is_file() for record in read_index(value.index))
    except (OSError, ValueError, EOFError):  # a file that is gone, or was cut off
        return False


def _is_whole(split: PackedSplit | StreamedSplit) -> bool:
    if isinstance(split, StreamedSplit):  # whether a store has the shards, reading them tells
        local = split.url and "://" not in split.url
        return split.shards.is_file() and (not local or Path(split.url).is_dir())
    size = split.n * split.height * split.width * CHANNELS
    labels = np.load(split.labels, mmap_mode="r")
    return (
        split.images.stat().st_size == size
        and labels.shape == ((split.n, len(split.counts)) if split.multi_label else (split.n,))
        and split.index.is_file()
    )
