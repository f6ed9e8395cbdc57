"""Look at every image without writing anything."""

from __future__ import annotations

from tasks.index import ImageRecord, read_index
from tasks.preprocess.reading import read_images
from tasks.values import RawDataset, SkippedImage


def check_images(raw: RawDataset) -> tuple[list[ImageRecord], list[SkippedImage]]:
    """Decode every image of ``raw``; return the records of those that can be used, and the others.

    Both come in the index's order. Raises ``DataError`` for a file that is no longer what the index
    says.
    """
    usable: list[ImageRecord] = []
    bad: list[SkippedImage] = []
    # One pixel is kept of each image, so that memory stays flat.
    found = read_images(raw.root, read_index(raw.index), lambda pixels: pixels[:1, :1].copy())
    for record, image in found:
        if isinstance(image, SkippedImage):
            bad.append(image)
        else:
            usable.append(record)
    return usable, bad
