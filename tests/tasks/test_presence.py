"""Whether a cached value can be used again: all of its files are there, and packs are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.index import ImageRecord, write_index
from tasks.presence import is_present
from tasks.values import PreparedDataset, RawDataset


@pytest.fixture
def raw(tmp_path: Path) -> RawDataset:
    names = ("a/1.png", "b/2.png")
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"image")
    write_index(tmp_path / "index.csv", [ImageRecord(name, 0, "", "", "0" * 64) for name in names])
    return RawDataset(
        kind="folder",
        root=tmp_path,
        index=tmp_path / "index.csv",
        classes=("a", "b"),
        counts={"": 2},
        ignored=(),
        ignored_count=0,
        digest="0" * 64,
    )


def test_images_that_are_all_there(raw: RawDataset):
    assert is_present(raw)


@pytest.mark.parametrize("name", ["a/1.png", "b/2.png", "index.csv"])
def test_a_lost_image_or_index_is_noticed(raw: RawDataset, name: str):
    (raw.root / name).unlink()
    assert not is_present(raw)


def test_packs_that_are_whole(prepared: PreparedDataset):
    assert is_present(prepared)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [Path.unlink, shorten, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("file", ["images", "labels"])
def test_a_damaged_pack_is_noticed(
    prepared: PreparedDataset, file: str, split: str, damage: Callable[[Path], object]
):
    damage(getattr(getattr(prepared, split), file))
    assert not is_present(prepared)


def test_a_lost_index_of_a_pack_is_noticed(prepared: PreparedDataset):
    prepared.val.index.unlink()
    assert not is_present(prepared)
