"""What small files that stand for large pictures may cost."""

from __future__ import annotations

import asyncio
import io
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tasks.preprocess.decode import decode_rgb
from tasks.pretrained.tiny import GraftTiny
from tasks.register import serving_decoders
from tasks.register.classifier import Classifier
from tasks.register.serving_decoders import Decoders, checked_cost, has_many_scans
from tasks.register.serving_images import Refusal
from tasks.values import InputSpec

SPEC = InputSpec(resize=16, crop=16, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear")
SOS = b"\xff\xda"


def image(kind: str, width: int = 40, height: int = 30, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """Return a gray PNG of a size as its header says; it has no pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def tiled_tiff(width: int, height: int, tile: int) -> bytes:
    """Return a gray TIFF with one zipped tile of ``tile`` x ``tile`` px."""
    content = zlib.compress(bytes(100))
    tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile), (323, tile), (324, 0), (325, len(content))]
    at = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, at if tag == 324 else v) for tag, v in tags]
    start = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return start + b"".join(entries) + bytes(4) + content


def scans(n: int) -> bytes:
    """Return a progressive JPEG with its last scan ``n`` times."""
    jpeg = image("JPEG", progressive=True)
    start = jpeg.rindex(SOS)
    return jpeg[:start] + jpeg[start:-2] * n + jpeg[-2:]


@pytest.mark.parametrize(
    ("kind", "sure"),
    [
        ("PNG", True),
        ("JPEG", True),
        ("GIF", True),
        ("WEBP", True),
        ("BMP", True),
        ("PPM", True),
        ("JPEG2000", True),
        ("TIFF", False),
        ("AVIF", False),
    ],
)
def test_what_an_image_costs_is_told_by_its_header(kind, sure):
    cost = checked_cost(0, image(kind), 1)
    assert (cost.pixels, cost.sure) == (1200, sure)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(1001, 1000), "row 3: over 1 megapixels"),
        (png(30_000, 30_000), "row 3: over 1 megapixels"),  # where Pillow would stop by itself
        (tiled_tiff(16, 16, 30_000), "row 3: over 1 megapixels"),
        (scans(200), "row 3: a JPEG of over 100 scans"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 3000 + image("JPEG")[2:], "row 3: a JPEG of over 100"),
    ],
)
def test_what_costs_too_much_is_refused_before_it_is_decoded(content, words):
    with pytest.raises(Refusal, match=words) as caught:
        checked_cost(3, content, 1)
    assert caught.value.status == 413


def test_what_is_within_the_limit_or_cannot_be_read_is_left_to_the_decoder():
    assert checked_cost(0, png(1000, 1000), 1).pixels == 1_000_000
    assert checked_cost(0, tiled_tiff(16, 16, 512), 1).pixels == 512 * 512
    for content in (b"", b"text", image("PNG")[:40], b"\xff\xd8", b"\xff\xd8" + b"\xff" * 9999):
        assert checked_cost(0, content, 1).pixels == 0


def test_only_the_scans_of_the_picture_itself_are_counted():
    plain = image("JPEG")
    block = b"\xff\xe1" + struct.pack(">H", 2002) + SOS * 1000
    inside = plain[:2] + block + plain[2:]  # as a preview would be
    behind = plain + SOS * 1000  # as a film that telephones keep behind a picture
    for content in (plain, inside, behind, scans(90)):
        assert not has_many_scans(content)
        assert decode_rgb(content).shape == (30, 40, 3)
    assert has_many_scans(scans(95))  # 9 of its own before the last
    assert has_many_scans(b"\xff\xd8\xff\x01" + scans(200)[2:])  # a marker without a length


class Held(Classifier):
    """A classifier that decodes nothing large before it may."""

    def __init__(self) -> None:
        super().__init__(GraftTiny(3), ("blue", "green", "red"), SPEC)
        self.may = threading.Event()
        self.large: list[str] = []

    def decoded(self, images: Sequence[bytes]) -> Iterator[Tensor]:
        if images and len(images[0]) > 10_000:
            self.large.append(threading.current_thread().name)
            self.may.wait(30)
        yield from super().decoded(images)


def test_large_images_wait_for_one_another_and_keep_nobody_else_waiting(monkeypatch):
    monkeypatch.setattr(serving_decoders, "MEGA", 1000)
    large, small = [image("PNG", 150, 120)], [image("PNG")] * 3

    async def scene() -> None:
        decoders, classifier = Decoders(50), Held()
        waiting = [
            asyncio.create_task(decoders.decoded(classifier, large))
            for _ in range(serving_decoders.LARGE_WAITING)
        ]
        while not classifier.large:
            await asyncio.sleep(0.01)
        for _ in range(20):
            pixels = await asyncio.wait_for(decoders.decoded(classifier, small), 30)
            assert torch.equal(pixels, torch.cat(list(classifier.decoded(small))))
        with pytest.raises(Refusal, match="Too many large images") as caught:
            await decoders.decoded(classifier, large)
        assert caught.value.status == 503
        classifier.may.set()
        assert [len(pixels) for pixels in await asyncio.gather(*waiting)] == [1] * len(waiting)
        assert all(name.startswith("decode-large") for name in classifier.large)
        assert len(set(classifier.large)) <= serving_decoders.LARGE_DECODERS
        assert (await decoders.decoded(classifier, [])).shape == (0, 16, 16, 3)

    asyncio.run(scene())


def test_a_format_whose_header_may_lie_goes_with_the_large():
    class Named(Held):
        def decoded(self, images: Sequence[bytes]) -> Iterator[Tensor]:
            self.large.append(threading.current_thread().name)
            yield from super().decoded(images)

    classifier, decoders = Named(), Decoders(1)
    for kind in ("PNG", "TIFF", "AVIF"):
        asyncio.run(decoders.decoded(classifier, [image(kind)]))
    names = [name.rpartition("_")[0] for name in classifier.large]
    assert names == ["decode", "decode-large", "decode-large"]


def test_images_of_too_many_pixels_together_are_refused_and_none_is_decoded():
    classifier = Held()
    with pytest.raises(Refusal, match="5 megapixels in all; 4 is the most at once") as caught:
        asyncio.run(Decoders(1).decoded(classifier, [png(1000, 1000)] * 5))
    assert caught.value.status == 413
    assert classifier.large == []


def test_memory_that_runs_out_over_a_header_is_not_taken_for_a_bad_image(monkeypatch):
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError):
        checked_cost(0, png(10, 10), 1)
