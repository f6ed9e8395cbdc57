"""An index of tars that others wrote: the same as the writer's, or why there can be none."""

from __future__ import annotations

import gc
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset

from tasks.config import DataConfig
from tasks.download import shard_index
from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Folder
from tasks.download.shard_index import Indexed, index_shards
from tasks.download.shard_leaks import Numbers, find_leaks
from tasks.download.shard_pack import Packing, Sizes
from tasks.download.shard_samples import read_samples
from tasks.download.shard_write import write_shards
from tasks.download.shards import INDEX_FILE, read_prefixes
from tasks.errors import ConfigError, DataError
from tasks.splitvalues import Shard

Samples = list[dict[str, object]]


@pytest.fixture
def tars(tmp_path: Path, png: Callable[[int], bytes]) -> Callable[..., Path]:
    """Return a maker of foreign tars: of each split, lists of (number of an image, label)."""

    def make(**splits: list[tuple[int, object]]) -> Path:
        folder = tmp_path / "tars"
        folder.mkdir(exist_ok=True)
        for split, images in splits.items():
            pattern = str(folder / f"{split}-%04d.tar")
            with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
                for place, (number, label) in enumerate(images):
                    field = "json" if isinstance(label, dict) else "cls"
                    image = png(number) if number >= 0 else b"no image"
                    writer.write({"__key__": f"{place:04d}", "png": image, field: label})
        return folder

    return make


def index(folder: Path | str, **settings: object) -> Indexed:
    return index_shards(DataConfig(kind="shards", path=str(folder), **settings))


GOOD = {
    "train": [(n, n % 12) for n in range(24)],
    "val": [(n, 3) for n in range(30, 34)],
    "test": [(n, 11) for n in range(40, 42)],
}


def test_shards_of_webdataset_are_counted(tars):
    folder = tars(**GOOD)
    made = index(folder)
    assert made.index.classes == tuple(sorted(map(str, range(12))))  # 10 before 2
    names = [shard.name for shard in made.index.shards]
    assert names[-3:] == ["val-0000.tar", "val-0001.tar", "test-0000.tar"]
    assert made.index.counts["train"] == (2,) * 12
    assert dict(zip(made.index.classes, made.index.counts["val"], strict=True))["3"] == 4
    assert (made.index.height, made.index.width) == (6, 5)
    assert made.warnings == ()
    labels = [
        s.label for x in made.index.shards for s in read_samples(str(folder), x, made.index.classes)
    ]
    assert np.bincount(labels).sum() == 30
    assert index(folder) == made


def test_the_index_is_the_writers_own(s3, tmp_path, tree):
    source = tree(*(f"{name}/{number}.png" for name in "ab" for number in range(20)))
    config = DataConfig(kind="folder", path=str(source))
    made = write_shards(config, 0, tmp_path / "cache", s3, Packing(5))
    again = index(s3)
    assert again.index == made.index
    assert again.sha256 == made.sha256
    for split in ("train", "val", "test"):
        assert sum(map(len, read_prefixes(s3, again.index, split))) == sum(made.index.counts[split])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val": [(5, 5)]}, r"exact_duplicates: 1 image\(s\) are in two splits: image 3 of train-"),
        ({"test": [(30, 3)]}, r"exact_duplicates: .*image 1 of val-0000.tar = image 1 of test-"),
        (
            {
                "val": [(30, {"label": "3", "group": "p"})],
                "test": [(40, {"label": 3, "group": "p"})],
            },
            r"group_leakage: 1 group\(s\).*val-0000.tar and test-0000.tar",
        ),
        ({"val": [(30, 3), (30, 4)]}, r"conflicting_labels: 1 image\(s\) have two labels"),
        ({"val": [(30, "cow")]}, "no training image of class cow"),
        ({"val": [(-1, 3)]}, r"1 of 27 images cannot be used.*\n?.*val-0000.tar, sample 0000"),
        ({"val": [(30, "\x1b[31m")]}, "no plain text"),
        ({"train": [(1, 3), (2, 3)], "test": [(40, 3)]}, "one label, 3"),
    ],
    ids=["val in train", "test in val", "group", "two labels", "class", "bad", "escape", "one"],
)
def test_what_would_spoil_a_measurement_is_refused(tars, changes, words):
    folder = tars(**GOOD | changes)
    for path in [
        p for p in folder.glob("*.tar") if p.name[:3] == "val" and p.name > "val-0000.tar"
    ]:
        path.unlink()
    with pytest.raises(DataError, match=words):
        index(folder)
    assert [path.name for path in folder.iterdir() if path.suffix != ".tar"] == []


def test_what_only_warns_is_told(tars):
    folder = tars(**GOOD | {"val": [(5, 5), (-1, 3)]})
    made = index(folder, on_bad_image="skip", checks={"exact_duplicates": "warn"})
    assert len(made.warnings) == 2
    assert "in two splits" in made.warnings[0]
    assert "1 image(s) cannot be used, and runs leave them out" in made.warnings[1]


@pytest.mark.parametrize("absent", ["train", "val", "test"])
def test_a_split_that_is_not_there_is_named(tars, absent):
    folder = tars(**{name: images for name, images in GOOD.items() if name != absent})
    with pytest.raises(DataError, match=rf"no shard of {absent}.\nName tars SPLIT-NAME.tar"):
        index(folder)


def test_a_damaged_tar_is_named_and_nothing_is_written(tars):
    folder = tars(**GOOD)
    path = folder / "train-0003.tar"
    path.write_bytes(path.read_bytes()[:-10_240])
    with pytest.raises(DataError, match=r"train-0003.tar is no whole tar"):
        index(folder)
    assert not (folder / INDEX_FILE).exists()


def test_images_cannot_be_left_out_of_shards(tars):
    with pytest.raises(ConfigError, match="exact_duplicates=drop cannot leave images out"):
        index(tars(**GOOD), checks={"exact_duplicates": "drop"})


def test_only_shards_are_indexed():
    with pytest.raises(ConfigError, match=r"Only data.kind=shards"):
        index_shards(DataConfig(kind="digits"))


@pytest.mark.parametrize("others", [("imagenet-train-0.tar",), ("train-0.tar.gz", "v.TGZ")])
def test_tars_of_other_names_are_told(tars, others):
    folder = tars(**GOOD)
    for name in (*others, "readme.txt", "tar"):
        (folder / name).write_bytes(b"")
    (told,) = index(folder).warnings
    assert told.startswith(f"{len(others)} tar(s) with names of no split are passed over: ")
    assert all(name in told for name in others)
    for path in folder.glob("val-*.tar"):
        path.rename(folder / f"my{path.name}")
    with pytest.raises(DataError, match=rf"no shard of val. {len(others) + 2} tar\(s\) .*myval-0"):
        index(folder)


def taken(work: Callable[[], object]) -> tuple[object, int, int]:
    """Return what ``work`` returns, the bytes that stay with it, and those at its peak."""
    tracemalloc.start()
    try:
        made = work()
        gc.collect()  # or what waits for it would count, now and then
        return made, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_an_image_takes_twelve_bytes_and_a_class_is_held_once(tmp_path, png):
    images, image = 500, png(0)  # of a class each, the same ones in every tar
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for number in range(images):
            for suffix, content in (("png", image), ("cls", b"a class of number %d" % number)):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    for name in ("train-1", "train-2", "val-0", "test-0"):
        (tmp_path / f"{name}.tar").hardlink_to(tmp_path / "train-0.tar")
    folder, labels = open_folder(str(tmp_path), 1), shard_index._Labels()
    names = [path.name for path in tmp_path.iterdir()]
    shard_index._look(folder, labels, names[0])  # imports, and each class
    looked, held, _ = taken(lambda: shard_index._look_at_all(folder, names, labels))
    assert len(labels.names()) == images
    arrays = [array for each in looked for array in each.numbers if isinstance(array, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == 5 * 12 * images
    # beside them a shard's facts, 4 KB
    assert held < 5 * (12 * images + 8_192), held / (5 * images)


def many(shards: int, images: int, classes: int) -> list[shard_index._Looked]:
    """Return what was seen of so many shards of train, and one each of val and test."""
    rng = np.random.default_rng(0)
    return [
        shard_index._Looked(
            Shard(name=f"{s}-{n}.tar", split=s, images=images, size=1 << 40, sha256="0" * 64),
            Numbers(
                f"{s}-{n}.tar",
                s,
                rng.integers(1 << 63, size=images, dtype=np.uint64),
                rng.integers(classes, size=images, dtype=np.uint32),
                np.zeros(0, np.uint64),
            ),
            Sizes(),
            [],
        )
        for n in range(shards)
        for s in (("train", "val", "test") if n == 0 else ("train",))
    ]


def test_what_is_done_with_all_images_takes_nine_bytes_more(tmp_path):
    images, classes = 20_000, tuple(f"{number:05}" for number in range(5_000))
    looked = many(10, images, len(classes))
    every, folder, config = (
        len(looked) * images,
        open_folder(str(tmp_path), 1),
        DataConfig(kind="digits"),
    )
    numbers = [each.numbers for each in looked]
    _, _, found = taken(lambda: find_leaks(numbers, config))
    _, _, renumbered = taken(lambda: shard_index._renumber(looked, list(classes), classes))
    (made, _), _, written = taken(lambda: shard_index._write(folder, looked, classes))
    assert max(found, renumbered, written) < 9 * every + (4 << 20)
    train = [each.numbers.prefixes for each in looked if each.shard.split == "train"]
    assert np.array_equal(
        np.concatenate(list(read_prefixes(folder.url, made))), np.concatenate(train)
    )


def test_a_store_is_given_bytes_that_are_held_once():
    """As adlfs asks for: it sends what is no ``bytes`` piece by piece, of a bytearray numbers."""
    given: dict[str, bytes] = {}

    class Store:
        def pipe_file(self, path: str, value: bytes) -> None:
            if type(value) is not bytes:
                raise TypeError(f"{type(value)} is read as an iterable")
            given[path] = value

    images = 50_000
    looked = many(2, images, 2)
    shard_index._write(Folder("az://b/x", "b/x", Store(), remote=True), looked, ("a", "b"))
    train = [each.numbers.prefixes for each in looked if each.shard.split == "train"]
    assert given["b/x/train.digests.bin"] == np.concatenate(train).astype(">u8").tobytes()
    assert set(given) == {f"b/x/{s}.digests.bin" for s in ("train", "val", "test")} | {
        f"b/x/{INDEX_FILE}"
    }
    made, _, most = taken(lambda: shard_index._prefixes(looked, "train"))
    assert most < 1.1 * len(made) == 1.1 * 8 * 2 * images
