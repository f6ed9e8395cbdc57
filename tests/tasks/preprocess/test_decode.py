"""decode_rgb against torchvision's own decoders, and every kind of difficult image."""

from __future__ import annotations

import io
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from tasks.preprocess.decode import UnreadableImage, decode_rgb, header_size

pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),  # as decode.py has it
]

Difficult = dict[str, tuple[bytes, str | None]]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def torchvision_rgb(content: bytes) -> np.ndarray:
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    image = decode_image(data, ImageReadMode.RGB, apply_exif_orientation=True)
    return image.permute(1, 2, 0).numpy()


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize((70, 50), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_png_is_decoded_as_torchvision_does(picture: Image.Image, mode: str) -> None:
    content = encode(picture.convert(mode), "PNG")
    assert np.array_equal(decode_rgb(content), torchvision_rgb(content))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_orientation_is_applied_as_torchvision_does(
    picture: Image.Image, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(picture, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    decoded, expected = decode_rgb(content), torchvision_rgb(content)
    assert decoded.shape == expected.shape == (*header_size(content), 3)
    # PNG is lossless; two JPEG libraries may differ in the last bits of the inverse transform
    limit = 0 if kind == "PNG" else 4
    assert np.abs(decoded.astype(int) - expected).max() <= limit


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_header_size_is_that_of_the_decoded_image(
    picture: Image.Image, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(picture, "TIFF", exif=exif)
    assert (*header_size(content), 3) == decode_rgb(content).shape


def test_files_and_bytes_decode_alike(picture: Image.Image, tmp_path: Path) -> None:
    content = encode(picture, "PNG")
    (tmp_path / "x.png").write_bytes(content)
    assert np.array_equal(decode_rgb(tmp_path / "x.png"), np.array(picture))
    assert np.array_equal(decode_rgb(content), np.array(picture))


def test_cmyk_of_an_ordinary_image_comes_back(picture: Image.Image) -> None:
    content = encode(picture.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert np.abs(decode_rgb(content).astype(int) - np.array(picture)).mean() < 3


def test_alpha_is_blended_onto_white(picture: Image.Image) -> None:
    opacity = np.linspace(0, 255, 3500).reshape(50, 70).astype(np.uint8)
    picture.putalpha(Image.fromarray(opacity))
    part = opacity[..., None] / 255
    expected = np.array(picture)[..., :3] * part + 255 * (1 - part)
    assert np.abs(decode_rgb(encode(picture, "PNG")) - expected).max() <= 1


def test_gray_with_alpha_is_blended_onto_white() -> None:
    content = encode(Image.new("LA", (4, 4), (100, 51)), "PNG")  # a fifth of 100, the rest white
    assert np.abs(decode_rgb(content).astype(int) - 224).max() <= 1


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.paste(0, (0, 0, 3, 4))
    decoded = decode_rgb(encode(image, "PNG", transparency=0))
    assert (decoded[:, :3] == 255).all()
    assert (decoded[:, 3:] == (10, 20, 30)).all()


def test_16_bit_gray_is_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 2000).reshape(40, 50).astype(np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    png = encode(Image.fromarray(values), "PNG")
    tiff = encode(Image.fromarray(values), "TIFF")
    pgm = b"P5 50 40 65535\n" + values.astype(">u2").tobytes()
    for content in (png, tiff, pgm):
        decoded = decode_rgb(content)
        assert all(np.array_equal(decoded[..., c], expected) for c in range(3))


def test_dark_16_bit_gray_stays_dark() -> None:
    """The scale is the format's, not the content's: values below 256 are nearly black."""
    values = np.arange(200, dtype=np.uint16).reshape(10, 20)
    for content in (
        encode(Image.fromarray(values), "PNG"),
        encode(Image.fromarray(values), "TIFF"),
        b"P5 20 10 65535\n" + values.astype(">u2").tobytes(),
    ):
        assert decode_rgb(content).max() == 1


def test_pgm_is_scaled_by_the_white_that_it_states() -> None:
    values = np.linspace(0, 1000, 200).round().astype(np.uint16).reshape(10, 20)
    decoded = decode_rgb(b"P5 20 10 1000\n" + values.astype(">u2").tobytes())
    assert np.abs(decoded[..., 0] - values / 1000 * 255).max() <= 1


def test_16_bit_png_agrees_with_torchvision_to_a_level() -> None:
    values = np.linspace(0, 65535, 2000).reshape(40, 50).astype(np.uint16)
    content = encode(Image.fromarray(values), "PNG")
    high_byte = torchvision_rgb(content) >> 8  # it decodes to 16 bits
    assert np.abs(decode_rgb(content).astype(int) - high_byte).max() <= 1


@pytest.mark.parametrize("value", [-1, 0, 200, 60_000, 70_000])
def test_32_bit_values_without_a_known_scale_are_refused(value: int) -> None:
    content = encode(Image.fromarray(np.full((4, 4), value, dtype=np.int32)), "TIFF")
    with pytest.raises(UnreadableImage, match="mode I have no known scale"):
        decode_rgb(content)


def test_first_frame_of_an_animation_counts(picture: Image.Image) -> None:
    black = Image.new("RGB", picture.size)
    content = encode(picture, "PNG", save_all=True, append_images=[black])
    assert np.array_equal(decode_rgb(content), np.array(picture))


def test_damaged_exif_turns_nothing(picture: Image.Image) -> None:
    plain = encode(picture, "JPEG", quality=95)
    broken = encode(picture, "JPEG", quality=95, exif=b"Exif\0\0this is no TIFF header")
    assert np.array_equal(decode_rgb(broken), decode_rgb(plain))


def test_each_difficult_image_is_decoded_or_refused_with_its_reason(difficult: Difficult) -> None:
    for name, (content, reason) in difficult.items():
        if reason is None:
            decoded = decode_rgb(content)
            assert decoded.dtype == np.uint8, name
            assert decoded.shape == ((50, 40, 3) if name == "exif.jpg" else (40, 50, 3)), name
        else:
            with pytest.raises(UnreadableImage) as caught:
                decode_rgb(content)
            assert str(caught.value).startswith(reason), name
            assert "\n" not in str(caught.value)


def test_every_truncation_of_a_jpeg_is_refused(picture: Image.Image) -> None:
    content = encode(picture, "JPEG")
    for length in range(0, len(content) - 2, 7):  # the last two bytes are the end marker
        with pytest.raises(UnreadableImage):
            decode_rgb(content[:length])


def test_missing_file_is_unreadable(tmp_path: Path) -> None:
    for read in (decode_rgb, header_size):
        with pytest.raises(UnreadableImage, match="no such file"):
            read(tmp_path / "gone.jpg")


def test_folder_named_like_an_image_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(UnreadableImage):
        decode_rgb(tmp_path / "folder.jpg")


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + checked


def png(extra: bytes = b"", side: int = 8) -> bytes:
    """Return a PNG of one colour; its pixels are there where they are few."""
    rows = zlib.compress(bytes((1 + 3 * side) * min(side, 8)))
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif(side: int = 16, frame: int = 16, frames: int = 1) -> bytes:
    made = encode(Image.new("P", (16, 16)), "GIF")
    at = made.index(b",")
    size = frame.to_bytes(2, "little") * 2
    picture = made[at : at + 5] + size + made[at + 9 : -1]
    return made[:6] + side.to_bytes(2, "little") * 2 + made[10:at] + picture * frames + b";"


def webp(side: int) -> bytes:
    frames = [Image.new("RGB", (32, 32), (80 * n, 0, 0)) for n in range(3)]
    made = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = made.index(b"VP8X") + 12
    made[at : at + 6] = (side - 1).to_bytes(3, "little") * 2
    return bytes(made)


PACKED = zlib.compress(bytes(64 << 20), 9)  # 65 kB
BOMBS = {
    "zTXt": (png(chunk(b"zTXt", b"k\0\0" + PACKED)), "too large"),
    "iTXt": (png(chunk(b"iTXt", b"k\0\1\0\0\0" + PACKED)), "too large"),
    "iCCP": (png(chunk(b"iCCP", b"k\0\0" + PACKED)), "too large"),
    "many zTXt": (
        png(
            b"".join(
                chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(bytes(1_000_000), 9))
                for n in range(70)
            )
        ),
        "Too much memory",
    ),
    "PNG": (png(side=20_000), "over"),
    "GIF's screen": (gif(side=65_535), "over"),
    "GIF's frame": (gif(frame=65_535), "over"),
    "WebP's canvas": (webp(side=16_383), "over"),
    "PPM's header": (b"P6\n99999999999 99999999999\n255\n", "damaged"),
    "PPM without an end": (b"P6\n" + b"9" * 100_000, "damaged"),
    "EPS, which a program reads": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no"),
    "SVG": (b"<svg><image href='file:///etc/passwd'/></svg>", "not an image"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_any_kind_is_refused(name: str) -> None:
    content, words = BOMBS[name]
    assert len(content) < 200_000
    for read in (decode_rgb, header_size):
        if read is header_size and name in ("zTXt", "iTXt", "many zTXt", "iCCP"):
            continue  # what follows the size is none of the header's
        with pytest.raises(UnreadableImage, match=words):
            read(content)


def test_of_many_frames_one_is_decoded() -> None:
    assert decode_rgb(png()).shape == (8, 8, 3)
    assert decode_rgb(gif(frames=20_000)).shape == (16, 16, 3)


def test_a_bomb_is_refused_when_warnings_are_errors_too() -> None:
    content = encode(Image.new("1", (10_000, 9_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage, match="decompression bomb"):
            decode_rgb(content)


def test_threads_decode_as_one_does(difficult: Difficult) -> None:
    def outcome(content: bytes) -> bytes:
        try:
            return decode_rgb(content).tobytes()
        except UnreadableImage as error:
            return str(error).encode()

    contents = [content for content, _ in difficult.values()] * 10
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, contents)) == [outcome(c) for c in contents]
