"""Generated images for the scale benchmark: tiny JPEGs, no two the same, of learnable classes.

Every image is a random coarse picture (64 random bytes, so no two are alike and their perceptual
hashes are far apart) with the tint and the stripes of its class on it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE, COARSE = 32, 8  # px
QUALITY = 75  # of the JPEGs, which are some 900 bytes
AT_ONCE = 1_000  # images, drawn with one random stream; others than these are never the same

Pictures = npt.NDArray[np.uint8]


def class_name(label: int) -> str:
    """Return the name of a class; names sort as numbers do."""
    return f"class-{label:05d}"


def labels_of(first: int, n: int, classes: int) -> npt.NDArray[np.int64]:
    """Return the labels of images ``first`` and following: the classes in turn."""
    return np.arange(first, first + n) % classes


def pictures(labels_n: npt.NDArray[np.int64], seed: tuple[int, ...]) -> Pictures:
    """Draw an image for each label: uint8 (n, 32, 32, 3), decided by ``seed``."""
    rng = np.random.default_rng(seed)
    coarse_nhw = rng.integers(-60, 61, (len(labels_n), COARSE, COARSE)).astype(np.float32)
    grey_nhw = coarse_nhw.repeat(SIDE // COARSE, axis=1).repeat(SIDE // COARSE, axis=2)
    tint_n3, stripes_nhw = _marks(labels_n)
    grey_nhw += stripes_nhw
    rgb_nhwc = 128 + grey_nhw[..., None] + tint_n3[:, None, None, :]
    return rgb_nhwc.clip(0, 255).astype(np.uint8)


def _marks(labels_n: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], ...]:
    """Return what is the same in all images of a class: tint (n, 3) and stripes (n, 32, 32)."""
    drawn_k6 = np.random.default_rng(0).uniform(-1, 1, (int(labels_n.max()) + 1, 6))
    drawn_n6 = drawn_k6[labels_n].astype(np.float32)
    at = np.arange(SIDE, dtype=np.float32)
    rows_nh, columns_nw = (drawn_n6[:, 3 + axis, None] * 0.8 * at for axis in (0, 1))
    turns_nhw = rows_nh[:, :, None] + columns_nw[:, None, :] + 3 * drawn_n6[:, 5, None, None]
    return 50 * drawn_n6[:, :3], 30 * np.sin(turns_nhw)


def jpegs(first: int, n: int, classes: int, stream: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, label and JPEG of ``n`` images from ``first`` on, which ``AT_ONCE`` divides.

    The same numbers of the same ``stream`` are always the same images.
    """
    for start in range(first, first + n, AT_ONCE):
        labels_n = labels_of(start, min(AT_ONCE, first + n - start), classes)
        drawn_nhwc = pictures(labels_n, (stream, start))
        for number, (label, picture_hwc) in enumerate(zip(labels_n, drawn_nhwc, strict=True)):
            yield start + number, int(label), _jpeg(picture_hwc)


def _jpeg(picture_hwc: Pictures) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture_hwc).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def write_folders(folder: Path, sizes: dict[str, int], classes: int) -> None:
    """Write class folders in a folder a split, so many images each."""
    for stream, (split, n) in enumerate(sizes.items()):
        for label in range(min(n, classes)):
            (folder / split / class_name(label)).mkdir(parents=True)
        for number, label, content in jpegs(0, n, classes, stream):
            (folder / split / class_name(label) / f"{number:08d}.jpg").write_bytes(content)
