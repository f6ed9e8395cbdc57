"""One stated way from an image file to 8-bit RGB, and a reason wherever there is none."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

# Formats Pillow decodes by itself; others, such as EPS, would start outside programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
SMALLEST_SIDE = 2  # px
LARGEST_ASPECT = 100
WHITE_RATIO = 257  # of 65535, white in 16 bits, to 255

# As PIL.ImageOps.exif_transpose, which also rewrites the EXIF block and stops on a damaged one.
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)

# The size is checked below, before any pixel is decoded. A filter set once, at import, is safe
# with threads where warnings.catch_warnings is not.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(Exception):  # noqa: N818 - it names what the image is, as rooms agreed
    """An image that cannot be used; ``str(error)`` is the reason, in a few words."""


def decode_rgb(source: Path | bytes) -> npt.NDArray[np.uint8]:
    """Decode a file, or its bytes, to RGB of shape (height, width, 3), uint8.

    Policy: the EXIF orientation is applied (an EXIF block that cannot be parsed has none); CMYK,
    palette and grayscale become RGB; transparency is blended onto white; unsigned 16-bit gray is
    scaled by 1/257 to 8 bits, whatever its values; of an animation the first frame counts; ICC
    profiles are not applied.

    Raises ``UnreadableImage`` for zero bytes, for what is no image in one of ``FORMATS``, for a
    truncated or damaged file, for more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` (a possible
    decompression bomb; checked before the pixels are decoded), for a side under 2 px, for an
    aspect ratio over 100, and for pixels without a known scale (float, 32-bit or signed).
    Thread-safe.
    """
    with _opened(source) as image:
        image.load()
        rgb, method = _to_rgb(image), TRANSPOSITIONS.get(_orientation(image))
        return np.array(rgb if method is None else rgb.transpose(method))


def header_size(source: Path | bytes) -> tuple[int, int]:
    """Return (height, width) in px as ``decode_rgb`` would, from the header where that can do.

    Raises ``UnreadableImage`` for what the header alone shows to be unreadable.
    """
    with _opened(source) as image:
        width, height = image.size
        # Pillow gives a TIFF's size as it is after rotation, other formats' as it is before.
        turned = width != height and image.format != "TIFF" and _orientation(image) in SIDEWAYS
        return (width, height) if turned else (height, width)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Open lazily and turn every failure, the block's own included, into ``UnreadableImage``."""
    if _is_empty(source):
        raise UnreadableImage("zero bytes")
    try:
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, "r", FORMATS
        ) as image:
            _check_size(*image.size)
            yield image
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(_bomb()) from error
    except FileNotFoundError as error:
        raise UnreadableImage("no such file") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise UnreadableImage(f"damaged: {reason or type(error).__name__}") from error


def _is_empty(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return not source
    return source.is_file() and source.stat().st_size == 0


def _bomb() -> str:
    return f"over {Image.MAX_IMAGE_PIXELS} px: a possible decompression bomb"


def _check_size(width: int, height: int) -> None:
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnreadableImage(f"{width}x{height}: {_bomb()}")
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadableImage(f"{width}x{height} px: too small")
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise UnreadableImage(f"{width}x{height} px: aspect ratio over {LARGEST_ASPECT}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, KeyError):  # a damaged EXIF block turns nothing
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _gray_16_bit(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _gray_16_bit(image: Image.Image) -> Image.Image:
    """Scale unsigned 16-bit gray to L; transparent is white.

    Pillow reads a PGM of more than 8 bits into mode I, scaled to 16 bits whatever its white is; in
    a TIFF mode I are signed or 32-bit numbers, whose white the file does not tell.
    """
    if not image.mode.startswith("I;16") and (image.mode, image.format) != ("I", "PPM"):
        raise UnreadableImage(f"pixels of mode {image.mode} have no known scale")
    values = np.asarray(image)
    gray = np.round(values / WHITE_RATIO).astype(np.uint8)
    gray[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(gray)
