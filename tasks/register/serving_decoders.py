"""From image files to pixels: a few files must hold neither all processors nor all memory.

What decoding costs is known by an image's size, which its header tells; a file of some hundred
bytes can stand for a picture that takes a gigabyte. So every size is looked at before anything is
decoded, and what is large goes by threads of its own.
"""

from __future__ import annotations

import asyncio
import io
import math
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice

import torch
from PIL import Image, TiffImagePlugin

from tasks.preprocess.decode import FORMATS
from tasks.register.classifier import Classifier
from tasks.register.serving_images import Refusal

MEGA = 1_000_000
ORDINARY = 16  # megapixels of a request in all; what has more is large
DECODERS, LARGE_DECODERS = 8, 2  # threads at the most, and no more than processors
LARGE_WAITING = 8  # large requests that may wait for one another
REQUEST = 4  # a request may have as many times the pixels of the largest image
UNSURE = ("AVIF", "TIFF")  # their header may say another size than what is decoded has
SCANS = 100  # of a JPEG; libtiff's limit too. Each costs as much as the image has pixels
SEGMENTS = 2000  # of a JPEG: a metadata block of 16 MiB has 256

_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_END, _SCAN = 0xD9, 0xDA
_ALONE = (0x01, 0xD8)  # markers that no length follows


@dataclass(frozen=True)
class Cost:
    """What decoding an image takes, by its header."""

    pixels: int
    sure: bool


class Decoders:
    """Decodes the images of requests, large ones beside the others.

    At the most ``DECODERS`` threads hold an image of up to ``ORDINARY`` megapixels each and
    ``LARGE_DECODERS`` one of up to ``megapixels``, at up to 28 bytes a pixel (WebP; 14 for JPEG). A
    queue of large requests leaves those threads free that decode ordinary ones.
    """

    def __init__(self, megapixels: int) -> None:
        """Take how many megapixels the largest image may have."""
        from joblib import cpu_count

        cores = cpu_count()  # by a container's limit, where os.cpu_count tells the machine's
        self._megapixels = megapixels
        self._ordinary = ThreadPoolExecutor(min(cores, DECODERS), "decode")
        self._large = ThreadPoolExecutor(min(max(cores // 2, 1), LARGE_DECODERS), "decode-large")
        self._waiting = 0

    async def decoded(self, classifier: Classifier, images: Sequence[bytes]) -> torch.Tensor:
        """Return uint8 (n, crop, crop, 3).

        Raises ``Refusal`` for an image, or for images together, of too many pixels, and where too
        many large ones wait; ``DataError`` that names every bad row.
        """
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._ordinary, self._at_once, classifier, images)
        if pixels is not None:
            return pixels
        with self._place():
            return await loop.run_in_executor(self._large, decode, classifier, images)

    def _at_once(self, classifier: Classifier, images: Sequence[bytes]) -> torch.Tensor | None:
        """Decode images that are ordinary; return None for large ones."""
        costs = [checked_cost(row, image, self._megapixels) for row, image in enumerate(images)]
        total = sum(cost.pixels for cost in costs)
        if total > REQUEST * self._megapixels * MEGA:
            raise too_large(
                f"The images have {total / MEGA:.0f} megapixels in all; "
                f"{REQUEST * self._megapixels} is the most at once. Send them in parts."
            )
        if total > ORDINARY * MEGA or not all(cost.sure for cost in costs):
            return None
        return decode(classifier, images)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold a place among the large requests for the time of the block."""
        if self._waiting >= LARGE_WAITING:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, "Too many large images at once. Try again."
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


def decode(classifier: Classifier, images: Sequence[bytes]) -> torch.Tensor:
    """Return uint8 (n, crop, crop, 3); raises ``DataError`` that names every bad row."""
    crop = classifier.spec.crop
    empty = torch.empty((0, crop, crop, 3), dtype=torch.uint8)
    return torch.cat([empty, *classifier.decoded(images)])


def checked_cost(row: int, image: bytes, megapixels: int) -> Cost:
    """Return what an image takes to decode; what cannot be read takes nothing.

    Raises ``Refusal`` for more pixels, and for a JPEG of more scans, than a server should decode.
    """
    if image.startswith(b"\xff\xd8") and has_many_scans(image):
        raise too_large(f"row {row}: a JPEG of over {SCANS} scans or {SEGMENTS} segments.")
    try:
        cost = _cost(image)
    except Image.DecompressionBombError:  # Pillow's own limit
        cost = Cost((megapixels + 1) * MEGA, True)
    except MemoryError:
        raise
    except Exception:  # decoding stops at the same place, and says why
        cost = Cost(0, True)
    if cost.pixels > megapixels * MEGA:
        raise too_large(f"row {row}: over {megapixels} megapixels. Send a smaller image.")
    return cost


def _cost(image: bytes) -> Cost:
    with Image.open(io.BytesIO(image), "r", FORMATS) as opened:
        pixels = opened.width * opened.height
        if isinstance(opened, TiffImagePlugin.TiffImageFile):
            pixels = max(pixels, _tile(opened))
        return Cost(pixels, opened.format not in UNSURE)


def _tile(image: TiffImagePlugin.TiffImageFile) -> int:
    """Return the pixels of a tile, which is decoded whole however small the image is."""
    tags = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
    sides = [image.tag_v2.get(tag, 0) for tag in tags]
    return math.prod(side if isinstance(side, int) else sys.maxsize for side in sides)


def has_many_scans(jpeg: bytes) -> bool:
    """Tell whether a JPEG has over ``SCANS`` scans, or ``SEGMENTS`` segments, up to its end.

    A progressive JPEG may bring the same coefficients any number of times, and each time all of
    them are gone through (libjpeg-turbo, "Two Issues with the JPEG Standard"): 4 MiB took minutes.
    """
    codes = list(islice(_segments(jpeg), SEGMENTS + 1))
    return len(codes) > SEGMENTS or codes.count(_SCAN) > SCANS


def _segments(jpeg: bytes) -> Iterator[int]:
    """Yield the code of each segment, found as libjpeg finds them: by marker and length."""
    at = 0
    while (found := _MARKER.search(jpeg, at)) and found[1][0] != _END:
        yield found[1][0]
        at = found.end()
        if found[1][0] not in _ALONE:
            at += int.from_bytes(jpeg[at : at + 2], "big")


def too_large(reason: str) -> Refusal:
    """Return the refusal of what would take too much time or memory."""
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
