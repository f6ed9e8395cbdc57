"""Look at every image without writing anything."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tasks.index import ImageRecord
from tasks.preprocess.near import perceptual_hash
from tasks.preprocess.reading import Pixels, read_images
from tasks.values import SkippedImage


class Looked(NamedTuple):
    """Images that were all decoded once, in the order of their records."""

    usable: list[ImageRecord]
    bad: list[SkippedImage]
    hashes: dict[str, int]  # perceptual hash by path, where asked for


def check_images(root: Path, records: list[ImageRecord], hashed: bool) -> Looked:
    """Decode every image below ``root`` and say which can be used; with ``hashed`` hash them too.

    Raises ``DataError`` for a file that is no longer what the index says.
    """

    # of the pixels nothing is kept, so that memory stays flat
    def view(pixels: Pixels) -> int | None:
        return perceptual_hash(pixels) if hashed else None

    looked = Looked([], [], {})
    for record, seen in read_images(root, records, view):
        if isinstance(seen, SkippedImage):
            looked.bad.append(seen)
            continue
        looked.usable.append(record)
        if seen is not None:
            looked.hashes[record.path] = seen
    return looked
