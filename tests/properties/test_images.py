"""Any bytes, and real files of six formats with any damage: pixels, or one reason why not."""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.preprocess.decode import UnreadableImage, decode_rgb, header_size

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF", b"GIF89a", b"II*\0", b"BM", b"P6 9 9 ")
MOST_PIXELS = 1_000_000  # here, so that a damaged header asks for no gigabyte
MOST_MEMORY = 300 << 20  # bytes that all examples together may add to the highest there was
MOST_SECONDS = 5.0  # of processor time, for one image


@pytest.fixture(autouse=True)
def _fewer_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MOST_PIXELS)


@pytest.fixture(scope="module", autouse=True)
def _memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < MOST_MEMORY


def whole(kind: str, mode: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    try:
        image.save(stream, kind, exif=exif)
    except OSError:  # the format has no such mode
        stream = io.BytesIO()
        image.convert("RGB").save(stream, kind)
    return stream.getvalue()


WHOLE = [whole(kind, mode) for kind in FORMATS for mode in ("RGB", "L", "P", "RGBA", "1")]


def a_few_words(error: UnreadableImage) -> None:
    assert str(error).strip()
    assert "\n" not in str(error)


def decoded_or_refused(content: bytes) -> None:
    start = time.process_time()
    try:
        pixels = decode_rgb(content)
    except UnreadableImage as error:
        a_few_words(error)
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert header_size(content) == pixels.shape[:2]
    assert time.process_time() - start < MOST_SECONDS


def test_the_undamaged_are_decoded():
    for content in WHOLE:
        assert decode_rgb(content).shape in ((24, 40, 3), (40, 24, 3))


@given(start=st.sampled_from([b"", *MAGIC]), content=st.binary(max_size=400))
def test_any_bytes(start: bytes, content: bytes):
    decoded_or_refused(start + content)


def bytes_changed(changes: list[tuple[float, int]]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        for share, value in changes:
            changed[int(share * (len(changed) - 1))] = value
        return bytes(changed)

    return change


def parts_moved(cuts: list[float], order: list[int]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        places = sorted({0, len(content), *(int(cut * len(content)) for cut in cuts)})
        parts = [content[a:b] for a, b in pairwise(places)]
        return b"".join(parts[i % len(parts)] for i in order)

    return change


shares = st.floats(0, 1)
# most of what decoders go by stands at the start
near_start = st.floats(0, 0.1)
damages = st.builds(
    bytes_changed,
    st.lists(st.tuples(near_start | shares, st.integers(0, 255)), min_size=1, max_size=6),
) | st.builds(
    parts_moved,
    st.lists(shares, max_size=4),
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
)


@given(content=st.sampled_from(WHOLE), damage=damages)
def test_any_damage(content: bytes, damage: Callable[[bytes], bytes]):
    decoded_or_refused(damage(content))
