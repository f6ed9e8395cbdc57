"""Look at every image without writing anything."""

from __future__ import annotations

from tasks.index import read_index
from tasks.preprocess.reading import read_images
from tasks.values import RawDataset, SkippedImage


def check_images(raw: RawDataset) -> list[SkippedImage]:
    """Decode every image of ``raw`` and return those that cannot be used, in the index's order.

    Raises ``DataError`` for a file that is no longer what the index says.
    """
    # One pixel is kept of each image, so that memory stays flat.
    found = read_images(raw.root, read_index(raw.index), lambda pixels: pixels[:1, :1].copy())
    return [image for _, image in found if isinstance(image, SkippedImage)]
