"""Folders nested as deep as a path can be, and names as long: data, never a fault of Python's."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import pytest

from tasks.artifacts import sha256_file
from tasks.config import DataConfig
from tasks.download.archives import DEEPEST, extract
from tasks.download.folders import find_images, read_folders
from tasks.download.shard_index import index_shards
from tasks.download.source import download
from tasks.errors import DataError
from tests.tasks.download.test_shards import tar
from tests.tasks.shard_folders import CLASSES, Sample, picture, samples, write_shard

TOO_DEEP = 1_500  # folders, over Python's limit of calls one in another


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_may_nest_so_deep_and_no_deeper(kind: str, pack, png, tmp_path: Path):
    archive = tmp_path / f"a.{kind}"
    for folders, taken in ((DEEPEST - 1, True), (DEEPEST, False), (TOO_DEEP, False)):
        pack(archive, [("b/x.png", png(0)), (f"{'d/' * folders}x.png", png(1))])
        if taken:
            files = extract(archive, sha256_file(archive), tmp_path / "cache")
            assert len(find_images(files)[0]) == 2
            continue
        with pytest.raises(DataError, match=f"nested over {DEEPEST} folders deep") as caught:
            extract(archive, sha256_file(archive), tmp_path / "cache")
        assert len(str(caught.value).splitlines()) == 2
    assert len(list((tmp_path / "cache" / "archives").iterdir())) == 1


def test_a_class_folder_may_nest_to_any_depth(tree):
    deep = 300 * "d/"
    root = tree("a/x.png", "a/z.png", f"a/{deep}w.png", "b/y.png")
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 200)  # a deeper tree takes its time to make
    try:
        found = read_folders(root, DataConfig(kind="folder", path="x")).images
    finally:
        sys.setrecursionlimit(usual)
    assert [image.path for image in found] == [f"a/{deep}w.png", "a/x.png", "a/z.png", "b/y.png"]


@pytest.mark.parametrize(
    "path", [TOO_DEEP * "d/" + "x.png", 300 * "n" + ".png", "/".join(30 * [200 * "n"])]
)
def test_a_shards_image_of_a_name_that_no_file_can_have_goes_by_its_key(path: str, tmp_path: Path):
    config = with_one_more(tmp_path, ("odd", picture(1, 0), CLASSES[0]), path)
    raw = download(config, tmp_path / "cache")
    assert (raw.root / "val" / "val-000000.tar" / "odd.png").read_bytes() == picture(1, 0)


def test_a_shards_key_that_no_file_can_have_is_the_shards_fault(tmp_path: Path):
    config = with_one_more(tmp_path, (5000 * "k", picture(1, 0), CLASSES[0]), "")
    with pytest.raises(DataError, match=r"val-000000\.tar has an image whose name no"):
        download(config, tmp_path / "cache")


def with_one_more(folder: Path, sample: Sample, path: str) -> DataConfig:
    """Write and index shards, the validation's with one image more, from ``path``."""
    for seed, split in enumerate(("train", "test")):
        write_shard(folder / "shards" / f"{split}-000000.tar", samples(6, seed))
    held = [*samples(6, 2), sample]
    members = [
        member
        for key, image, label in held
        for member in (
            (f"{key}.png", image),
            (
                f"{key}.json",
                json.dumps({"label": label, "path": path * (key == sample[0])}).encode(),
            ),
        )
    ]
    tar(folder / "shards" / "val-000000.tar", members)
    config = DataConfig(kind="shards", path=str(folder / "shards"))
    index_shards(config)
    return config
