"""Near duplicates: imagehash's own hash, every pair that brute force finds, real copies."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tasks.index import ImageRecord
from tasks.preprocess.decode import decode_rgb
from tasks.preprocess.near import (
    NONE,
    Matches,
    Pictures,
    find_near,
    near_duplicates,
    perceptual_hash,
)
from tasks.values import SplitName

CLASSES = ("ants", "bees")
Splits = dict[SplitName, list[ImageRecord]]


def random_pictures(n: int, seed: int, centres: np.ndarray) -> Pictures:
    """Return hashes that lie 0 to 20 bits around some centres, of few files and labels."""
    rng = np.random.default_rng(seed)
    hashes = rng.choice(centres, n)
    for _ in range(20):
        hashes ^= np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64)
        hashes = np.where(rng.random(n) < 0.3, rng.choice(centres, n), hashes)
    return Pictures(hashes, rng.integers(0, 40, n), rng.integers(0, 3, n))


def brute(queries: Pictures, others: Pictures, distance: int) -> Iterator[list[tuple[int, int]]]:
    """Yield, for each query, (bits, position) of all that is near, counting bits as Python does."""
    for code, file in zip(queries.hashes.tolist(), queries.files, strict=True):
        pairs = zip(others.hashes.tolist(), others.files, strict=True)
        bits = [((code ^ o).bit_count(), f) for o, f in pairs]
        yield [(b, i) for i, (b, f) in enumerate(bits) if b <= distance and f != file]


@pytest.mark.parametrize("distance", range(17))
def test_every_near_pair_is_found_and_no_other(distance: int) -> None:
    centres = np.random.default_rng(distance).integers(0, 2**64, 30, dtype=np.uint64)
    queries = random_pictures(150, distance, centres[:20])
    others = random_pictures(120, 100 + distance, centres[10:])
    found: Matches = find_near(queries, others, distance)
    expected = list(brute(queries, others, distance))
    assert found.nearest.tolist() == [min(near)[1] if near else NONE for near in expected]
    disputed = [
        [(b, i) for b, i in near if others.labels[i] != label]
        for near, label in zip(expected, queries.labels, strict=True)
    ]
    assert found.disputed.tolist() == [min(near)[1] if near else NONE for near in disputed]
    hit = {i for near in expected for _, i in near}
    assert set(np.flatnonzero(found.hit).tolist()) == hit
    assert 0 < sum(map(bool, expected)) < 150


def test_blocks_of_any_size_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    centres = np.random.default_rng(0).integers(0, 2**64, 30, dtype=np.uint64)
    queries, others = random_pictures(50, 1, centres), random_pictures(70, 2, centres)
    whole = find_near(queries, others, 8)
    for block in (1, 71, 140, 699):
        monkeypatch.setattr("tasks.preprocess.near.BLOCK", block)
        for one, other in zip(find_near(queries, others, 8), whole, strict=True):
            assert np.array_equal(one, other)


def test_no_image_is_near_to_none() -> None:
    none = Pictures(*(np.zeros(0, dtype=kind) for kind in (np.uint64, np.int64, np.int64)))
    some = Pictures(*(np.ones(3, dtype=kind) for kind in (np.uint64, np.int64, np.int64)))
    assert find_near(some, none, 16).nearest.tolist() == [NONE] * 3
    assert find_near(none, some, 16).hit.tolist() == [False] * 3


def test_memory_stays_flat_where_all_pictures_look_alike() -> None:
    """All of 5,000 against 2,000 are near: 1e7 pairs, whose positions alone would take 160 MB."""
    n = 5_000
    queries, others = (
        Pictures(np.zeros(size, dtype=np.uint64), first + np.arange(size), np.arange(size) % 2)
        for size, first in ((n, 0), (2000, n))
    )
    tracemalloc.start()
    found = find_near(queries, others, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.nearest == 0).all()
    assert found.hit.all()
    assert peak < 5e6


def test_the_hash_is_that_of_imagehash_on_small_pictures(photographs: dict[str, bytes]) -> None:
    for content in photographs.values():
        image = Image.open(io.BytesIO(content)).convert("RGB")
        assert f"{perceptual_hash(np.asarray(image)):016x}" == str(imagehash.phash(image))


def odd_pictures(n: int) -> Iterator[np.ndarray]:
    """Yield pictures whose frequencies tie at the median, or nearly: what rounding could decide."""
    rng = np.random.default_rng(0)
    for i in range(n):
        noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        yield noise
        yield np.full((20, 40, 3), i % 256, np.uint8)  # one colour
        yield np.repeat(noise[:, :1], 32, axis=1)  # stripes
        yield np.concatenate((noise, noise[:, ::-1]), axis=1)  # its own mirror image
        dot = np.zeros((32, 32, 3), np.uint8)
        dot[i % 32, i * 7 % 32] = 255
        yield dot


def test_the_hash_is_that_of_imagehash_where_frequencies_tie() -> None:
    for pixels in odd_pictures(40):
        image = Image.fromarray(pixels).convert("L").resize((32, 32), 1, reducing_gap=2.0)
        assert f"{perceptual_hash(pixels):016x}" == str(imagehash.phash(image))


@pytest.fixture(scope="module")
def photos(shared: Path) -> dict[str, np.ndarray]:
    """Return 13 real photographs of ants and bees."""
    with zipfile.ZipFile(shared / "data/hymenoptera.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::32]
        return {name: decode_rgb(archive.read(name)) for name in names}


def jpeg(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=60)
    return decode_rgb(file.getvalue())


def smaller(pixels: np.ndarray) -> np.ndarray:
    height, width = (round(0.9 * side) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height)))


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(1.1))


def bits(one: np.ndarray, other: np.ndarray) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


@pytest.mark.parametrize("change", [jpeg, smaller, brighter])
def test_changed_copies_are_near_and_other_photographs_are_not(change, photos) -> None:
    distances = [bits(pixels, change(pixels)) for pixels in photos.values()]
    assert max(distances) <= 4
    pictures = list(photos.values())
    assert min(bits(one, other) for one, other in pairwise(pictures)) > 10


def test_shrinking_first_costs_no_likeness(photos) -> None:
    """Of the two ways to 32 px the library's own may differ by 2 bits: one swap at the median."""
    for pixels in photos.values():
        whole = int(str(imagehash.phash(Image.fromarray(pixels))), 16)
        assert (whole ^ perceptual_hash(pixels)).bit_count() <= 2


def of(split: str, *entries: tuple[int, int]) -> list[ImageRecord]:
    return [
        ImageRecord(f"{split}/{i}", label, "", "", f"{split}{i}{code}")
        for i, (code, label) in enumerate(entries)
    ]


def hashes_of(splits: Splits, **codes: tuple[int, ...]) -> dict[str, int]:
    return {
        record.path: code
        for name in splits
        for record, code in zip(splits[name], codes[name], strict=True)
    }


@pytest.fixture
def tangled() -> tuple[Splits, dict[str, int]]:
    """Return train/0 near val/0 and, by another label, test/1; val/0 near test/0."""
    codes = {"train": (0b1, 0xFF00, 0xFF << 20), "val": (0b11, 0xFFFF << 40), "test": (0b111, 0b0)}
    labels = {"train": (0, 0, 1), "val": (0, 1), "test": (0, 1)}
    splits: Splits = {
        name: of(name, *zip(codes[name], labels[name], strict=True))
        for name in ("train", "val", "test")
    }
    return splits, hashes_of(splits, **codes)


def test_images_near_to_those_of_a_later_split_are_found_and_dropped(tangled) -> None:
    splits, hashes = tangled
    found = near_duplicates(splits, CLASSES, hashes, "drop", 1)
    assert (found.found, found.unit) == (2, "image")
    assert found.gone == {"train/0", "val/0"}
    assert "train/2" not in str(found.examples)


def test_pairs_of_other_labels_come_first_with_both(tangled) -> None:
    splits, hashes = tangled
    found = near_duplicates(splits, CLASSES, hashes, "warn", 2)
    assert found.examples[0] == "train/0 (train, 'ants') ~ test/1 (test, 'bees')"
    assert not found.gone
    assert found.text == (
        "2 image(s) of train or val have a near copy in a later split, 2 of them under other "
        "labels, and 2 of 2 test images are near copies"
    )


def test_the_same_file_is_left_to_the_check_of_equal_files(tangled) -> None:
    splits, hashes = tangled
    splits["train"][0] = splits["train"][0]._replace(sha256="same")
    splits["val"][0] = splits["val"][0]._replace(sha256="same")
    hashes["train/0"] = hashes["val/0"]
    found = near_duplicates(splits, CLASSES, hashes, "drop", 1)
    assert found.examples == ("train/0 (train) ~ test/0 (test)", "val/0 (val) ~ test/0 (test)")


def test_nothing_is_near_once_it_is_dropped() -> None:
    rng = np.random.default_rng(3)
    codes = {name: tuple(rng.integers(0, 200, 40).tolist()) for name in ("train", "val", "test")}
    splits: Splits = {name: of(name, *((code, 0) for code in codes[name])) for name in codes}
    hashes = hashes_of(splits, **codes)
    found = near_duplicates(splits, CLASSES, hashes, "drop", 1)
    assert found.gone
    kept = {name: [r for r in rs if r.path not in found.gone] for name, rs in splits.items()}
    assert kept["test"] == splits["test"]
    assert near_duplicates(kept, CLASSES, hashes, "drop", 1).found == 0
