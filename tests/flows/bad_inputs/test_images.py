"""One bad image among good ones, with any damage."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.flows.bad_inputs.rows import INDEX, Bad, Make, encoded, photos


def image(name: str, content: bytes | Callable[[], bytes]) -> Make:
    """Put one bad image among the good ones."""
    given = content if isinstance(content, bytes) else content()
    return photos(lambda folder: (folder / "red" / name).write_bytes(given))


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """Return a PNG whose header states a size, whatever its rows hold."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 0xFF
    return bytes(changed)


NOISE = encoded((64, 64), "JPEG")
IMAGES = {
    "of no bytes": Bad(image("a.png", b""), 3, "a.png.*zero bytes", INDEX),
    "that is text": Bad(image("a.jpg", b"no image"), 3, "a.jpg.*not an image", INDEX),
    "that is a web page": Bad(image("a.jpg", b"<html>404</html>"), 3, "a.jpg.*not an", INDEX),
    "cut off": Bad(image("a.jpg", NOISE[: len(NOISE) // 2]), 3, r"a\.jpg.*damaged", INDEX),
    "of a header alone": Bad(image("a.png", png(9, 9)[:33]), 3, r"a\.png", INDEX),
    "without its pixels": Bad(image("a.png", png(9, 9)), 3, r"a\.png.*damaged", INDEX),
    "of a wrong checksum": Bad(
        image("a.png", flipped(png(9, 9, 9 * (1 + 27) * b"\0"), 45)), 3, r"a\.png", INDEX
    ),
    "of one pixel": Bad(image("a.png", encoded((1, 1), "PNG")), 3, "1x1 px: too small", INDEX),
    "of a line": Bad(image("a.png", encoded((500, 2), "PNG")), 3, "aspect ratio", INDEX),
    "that is a bomb": Bad(
        image("a.png", png(60_000, 60_000)), 3, r"a\.png.*decompression bomb", INDEX
    ),
    "of no width": Bad(image("a.png", png(0, 9)), 3, r"a\.png", INDEX),
    "of floats": Bad(image("a.tif", encoded((9, 9), "TIFF", "F")), 3, "mode F", INDEX),
    "that is a program's": Bad(
        image("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), 3, "a.png", INDEX
    ),
    "cut off TIFF": Bad(image("a.tif", encoded((64, 64), "TIFF")[:99]), 3, r"a\.tif", INDEX),
    "cut off WebP": Bad(image("a.webp", encoded((64, 64), "WEBP")[:99]), 3, r"a\.webp", INDEX),
    "cut off BMP": Bad(image("a.bmp", encoded((64, 64), "BMP")[:99]), 3, r"a\.bmp", INDEX),
}


def test_the_noise_is_that_of_a_photograph():
    assert np.asarray(Image.open(io.BytesIO(NOISE))).std() > 30


@pytest.mark.parametrize("name", IMAGES)
def test_an_image(refuse, name: str):
    refuse(IMAGES[name])
