"""Small datasets of real files, and one of each kind of difficult image."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.artifacts import sha256_bytes
from tasks.index import ImageRecord, digest_records, write_index
from tasks.values import InputSpec, RawDataset

MakeRaw = Callable[..., RawDataset]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> Image.Image:
    """Return smooth random colours, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    return Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def spec() -> InputSpec:
    return InputSpec(
        resize=36,
        crop=32,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bilinear",
    )


@pytest.fixture
def make_raw(tmp_path: Path) -> MakeRaw:
    """Return a maker of datasets from ``{path: bytes}``; paths are [split/]class/name."""

    def make(files: Mapping[str, bytes], groups: Mapping[str, str] | None = None) -> RawDataset:
        root = tmp_path / "images"
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        classes = tuple(sorted({path.split("/")[-2] for path in files}))
        records = [
            ImageRecord(
                path,
                classes.index(path.split("/")[-2]),
                path.split("/")[0] if path.count("/") == 2 else "",
                (groups or {}).get(path, ""),
                sha256_bytes(content),
            )
            for path, content in sorted(files.items())
        ]
        write_index(tmp_path / "index.csv", records)
        return RawDataset(
            kind="folder",
            root=root,
            index=tmp_path / "index.csv",
            classes=classes,
            counts={s: sum(r.split == s for r in records) for s in {r.split for r in records}},
            ignored=(),
            ignored_count=0,
            digest=digest_records(classes, records),
        )

    return make


@pytest.fixture
def photographs() -> dict[str, bytes]:
    """Return 24 PNGs of two classes and many sizes, no split declared."""
    return {
        f"{name}/{i:02}.png": encode(noise(40 + i, 60 - i, seed=100 * k + i), "PNG")
        for k, name in enumerate(("cats", "dogs"))
        for i in range(12)
    }


@pytest.fixture(scope="session")
def difficult() -> dict[str, tuple[bytes, str | None]]:
    """Return each kind of difficult image: its bytes, and the start of the reason or None."""
    rgb = noise(40, 50, seed=7)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn clockwise
    alpha = rgb.copy()
    alpha.putalpha(128)
    gray16 = Image.fromarray(np.linspace(0, 65535, 2000).reshape(40, 50).astype(np.uint16))
    return {
        "truncated.jpg": (encode(rgb, "JPEG")[:500], "damaged"),
        "truncated.png": (encode(rgb, "PNG")[:-600], "damaged"),
        "text.jpg": (b"this is no image, whatever its name says\n" * 9, "not an image"),
        "postscript.jpg": (encode(rgb, "EPS"), "not an image"),
        "zero.jpg": (b"", "zero bytes"),
        "one_pixel.png": (encode(noise(1, 1), "PNG"), "1x1 px: too small"),
        "thread.png": (encode(noise(2, 300), "PNG"), "300x2 px: aspect ratio over 100"),
        "bomb.png": (
            encode(Image.new("1", (10_000, 9_000)), "PNG"),
            "10000x9000: over 89478485 px",
        ),
        "big_bomb.png": (encode(Image.new("1", (20_000, 10_000)), "PNG"), "over 89478485 px"),
        "float.tif": (encode(Image.new("F", (9, 9), 0.5), "TIFF"), "pixels of mode F"),
        "gray16.png": (encode(gray16, "PNG"), None),
        "cmyk.jpg": (encode(rgb.convert("CMYK"), "JPEG", quality=95), None),
        "palette.png": (encode(rgb.quantize(64), "PNG"), None),
        "alpha.png": (encode(alpha, "PNG"), None),
        "exif.jpg": (encode(rgb, "JPEG", quality=95, exif=turned), None),
        "animated.gif": (
            encode(rgb, "GIF", save_all=True, append_images=[noise(40, 50, seed=8)]),
            None,
        ),
    }
