"""An index of tars that others wrote: the same as the writer's, or why there can be none."""

from __future__ import annotations

import gc
import io
import resource
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
from tasks.download.shard_numbers import numbers_beside
from tasks.download.shard_pack import Packing
from tasks.download.shard_samples import read_samples
from tasks.download.shard_write import write_shards
from tasks.download.shards import INDEX_FILE, read_prefixes
from tasks.errors import ConfigError, DataError, ResourceError

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


def taken(work: Callable[[], object]) -> tuple[object, int]:
    """Return what ``work`` returns, and the bytes that stay with it."""
    tracemalloc.start()
    try:
        made = work()
        gc.collect()  # or what waits for it would count, now and then
        return made, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_a_class_is_held_once_and_an_image_not_at_all(tmp_path, png):
    images, image = 800, png(0)  # of a class each, the same ones in every tar
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for number in range(images):
            for suffix, content in (("png", image), ("cls", b"a class of number %d" % number)):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    for name in ("val-0", "test-0"):
        (tmp_path / f"{name}.tar").hardlink_to(tmp_path / "train-0.tar")
    folder, labels = open_folder(str(tmp_path), 1), shard_index._Labels()
    names = [path.name for path in tmp_path.iterdir()]
    with numbers_beside(folder) as numbers:

        def look() -> list[shard_index._Looked]:
            return shard_index._look_at_all(folder, names, labels, numbers)

        look()  # imports, and each class
        found = [taken(look) for _ in range(3)]  # what else the process keeps comes once
        assert len(numbers.images) == (1 + len(found)) * 3 * images
    assert len(labels.names()) == images
    held = min(each for _, each in found)
    assert held < 3 * 16_384, held / 3  # a shard's facts, 4 KB; a number an image were 28


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("cause", ["Ctrl-C", "full disk"])
def test_what_ends_it_leaves_nothing_behind(cause, tars, monkeypatch):
    folder, before = tars(**GOOD), resource.getrlimit(resource.RLIMIT_FSIZE)
    if cause == "Ctrl-C":
        monkeypatch.setattr(Folder, "put", stopped)  # the digests are in their file by then
        with pytest.raises(KeyboardInterrupt):
            index(folder)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
        try:
            with pytest.raises(ResourceError, match="The disk is full while writing"):
                index(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.suffix for path in folder.iterdir()} == {".tar"}
