"""Class folders against torchvision's ImageFolder, and layouts that must be refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from tasks.config import DataConfig
from tasks.download.folders import IMAGE_SUFFIXES, read_folders, top_folder
from tasks.download.listing import Listing, check_listing, classes_of
from tasks.download.source import download
from tasks.errors import ConfigError, DataError
from tasks.index import read_index

Tree = Callable[..., Path]


def config_of(root: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"kind": "folder", "path": str(root), **values})


def listing_of(root: Path, **values: object) -> Listing:
    return read_folders(root, config_of(root, **values))


def splits_of(listing: Listing) -> dict[str, int]:
    return dict(Counter(image.split for image in listing.images))


def names(split: str, *classes: str, n: int = 2) -> list[str]:
    return [f"{split}/{c}/{i}.png" for c in classes for i in range(n)]


def test_suffixes_are_torchvisions():
    assert IMAGE_SUFFIXES == IMG_EXTENSIONS


def test_classes_labels_and_paths_are_imagefolders(tree: Tree, tmp_path: Path):
    root = tree(
        *[f"{c}/{i}.png" for c in ("10", "2", "b", "B", "ä") for i in range(3)],
        *("2/deep/er/9.JPG", "b/notes.txt", "b/1.gif", "readme.md"),
    )
    oracle = ImageFolder(str(root))
    raw = download(config_of(root), tmp_path / "cache")
    records = read_index(raw.index)
    assert list(raw.classes) == oracle.classes
    assert sorted((str(root / r.path), r.label) for r in records) == sorted(oracle.samples)
    assert raw.counts == {"": len(oracle)}
    assert raw.ignored == ("b/1.gif", "b/notes.txt", "readme.md")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "VALID", "testing"), ("TRAIN", "validation", "Test")],
)
def test_splits_are_found_by_name(tree: Tree, train: str, val: str, test: str):
    root = tree(
        *names(train, "a", "b"), *names(val, "a", "b", n=1), *names(test, "b", n=3), "extra/x/1.png"
    )
    listing = listing_of(root)
    assert splits_of(listing) == {"train": 4, "val": 2, "test": 3}
    assert listing.ignored == ("extra/",)


def test_named_folders_are_taken_for_what_the_user_says(tree: Tree):
    root = tree(*names("train", "a", "b"), *names("val", "a", "b", n=1))
    assert splits_of(listing_of(root, test="val")) == {"train": 4, "test": 2}
    root = tree(*names("x/one", "a", "b"), *names("x/two", "a"), root="other")
    assert splits_of(listing_of(root, train="x/one", val="x/two")) == {"train": 4, "val": 2}


def test_a_class_may_be_called_train(tree: Tree):
    root = tree("bus/1.png", "bus/2.png", "train/1.png", "train/2.png")
    assert classes_of(listing_of(root)) == ("bus", "train")


def test_hidden_folders_and_files_are_not_seen(tree: Tree):
    root = tree(
        *names("train", "a", "b"),
        "train/.ipynb_checkpoints/1.png",
        "train/a/._1.png",
        "__MACOSX/train/a/1.png",
        "train/a/.hidden/1.png",
    )
    listing = listing_of(root)
    assert len(listing.images) == 4
    assert listing.ignored == ()


def test_links_are_not_followed_and_named(tree: Tree, tmp_path: Path):
    outside = tree("1.png", root="outside")
    root = tree("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    (root / "a" / "9.png").symlink_to(outside / "1.png")
    (root / "c").symlink_to(outside)
    (root / "a" / "loop").symlink_to(root)
    listing = listing_of(root)
    assert len(listing.images) == 4
    assert listing.ignored == ("a/9.png (link)", "a/loop (link)", "c (link)")


def test_folder_of_links_alone_says_so(tree: Tree):
    outside = tree("1.png", root="outside")
    root = tree("a/", "b/")
    for name in ("a/1.png", "b/1.png"):
        (root / name).symlink_to(outside / "1.png")
    with pytest.raises(DataError, match="links, which are not followed"):
        check_listing(listing_of(root), str(root))


def test_no_more_than_twenty_ignored_files_are_kept(tree: Tree):
    root = tree(*names("train", "a", "b"), *[f"train/a/{i:02d}.txt" for i in range(30)])
    assert listing_of(root).ignored == tuple(f"train/a/{i:02d}.txt" for i in range(20))


def test_name_that_is_no_utf8_stays_readable(tree: Tree, tmp_path: Path):
    root = tree("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    odd = root / "a" / "\udcff,\n.png"
    odd.write_bytes(b"odd")
    (root / "\udcfe.txt").write_bytes(b"")
    raw = download(config_of(root), tmp_path / "cache")
    assert raw.ignored == ("\\udcfe.txt",)
    assert json.loads(raw.model_dump_json())["counts"] == {"": 5}


def test_wrapper_of_an_archive_is_entered(tree: Tree):
    assert top_folder(tree("top/train/a/1.png", root="one")).name == "top"
    assert top_folder(tree("train/a/1.png", root="two")).name == "two"
    assert top_folder(tree("only/1.png", root="three")).name == "three"
    assert top_folder(tree("top/a/1.png", "__MACOSX/x", ".DS_Store", root="four")).name == "top"
    assert top_folder(tree("top/a/1.png", "b/1.png", root="five")).name == "five"


BAD: dict[str, tuple[list[str], dict[str, object], str]] = {
    "empty": ([], {}, "no image file"),
    "no image file": (["a/1.txt", "b/2.gif"], {}, "no image file"),
    "images without class folders": (["1.png", "2.png"], {}, "no image file"),
    "one class": (["a/1.png", "a/2.png"], {}, "one class, a"),
    "class of one image": (["a/1.png", "a/2.png", "b/1.png"], {}, "one image only of class b"),
    "class folder without image": (
        ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "c/1.txt"],
        {},
        "no image of class c",
    ),
    "val has another class": (
        [*names("train", "a", "b"), *names("val", "a", "c")],
        {},
        "classes that train has not: c",
    ),
    "class empty in train": (
        [*names("train", "a", "b"), "train/c/", *names("test", "c")],
        {},
        "no image of class c to train on",
    ),
    "named split is not there": (
        names("train", "a", "b"),
        {"test": "tset"},
        "no test=tset.\nThere are: train",
    ),
    "named split is outside": (names("train", "a", "b"), {"test": "../data"}, "has no test="),
    "named twice": (names("train", "a", "b"), {"val": "x", "test": "x"}, "twice"),
    "split in a split": (
        [*names("train", "a", "b"), *names("train/a", "x")],
        {"train": "train", "test": "train/a"},
        "another split",
    ),
    "two names of one split": (
        [*names("val", "a"), *names("valid", "a"), *names("train", "a", "b")],
        {},
        "val, valid, all for val",
    ),
    "nothing to train on": ([*names("val", "a", "b"), *names("test", "a")], {}, "to train on"),
    "splits without classes": (
        ["train/1.png", "train/2.png", "test/1.png", "test/2.png"],
        {},
        "no class folders in them",
    ),
    "class name is no text": (
        ["a/1.png", "a/2.png", "b\udcff/1.png", "b\udcff/2.png"],
        {},
        "no plain text",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_layout_is_refused_and_leaves_the_cache(
    name: str, tree: Tree, tmp_path: Path, snapshot
):
    files, values, words = BAD[name]
    root = tree(*files)
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        download(config_of(root, **values), tmp_path / "cache")
    str(caught.value).encode()
    assert str(caught.value).count("\n") <= 1
    assert snapshot(tmp_path) == before


def test_missing_folder(tmp_path: Path):
    with pytest.raises(DataError, match="not there"):
        download(config_of(tmp_path / "nowhere"), tmp_path / "cache")


@pytest.mark.parametrize(
    "values",
    [
        {"sha256": "0" * 64},
        {"manifest": "a.csv"},
        {"split_column": "s"},
        {"group_column": "g"},
        {"slice_columns": ("s",)},
    ],
)
def test_settings_of_other_kinds_are_refused(tree: Tree, tmp_path: Path, values: dict[str, str]):
    with pytest.raises(ConfigError, match=next(iter(values))):
        download(config_of(tree("a/1.png"), **values), tmp_path / "cache")
