"""Files of a folder of shards: none left out unsaid, and each one whole whatever happens."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tasks.download.shard_address import open_folder
from tasks.errors import DataError, ResourceError
from tests.tasks.download.conftest import full_disk


def test_a_link_to_a_tar_is_that_tar(tmp_path: Path):
    (tmp_path / "elsewhere").write_bytes(b"1234")
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "train-0.tar").symlink_to(tmp_path / "elsewhere")
    (shards / "old").symlink_to(tmp_path / "gone")
    (shards / "train-1.tar").write_bytes(b"12")
    assert open_folder(str(shards)).sizes() == {"train-0.tar": 4, "train-1.tar": 2}


@pytest.mark.parametrize("target", ["gone", ".", "train-0.tar"])
def test_a_link_to_no_file_is_named(tmp_path: Path, target: str):
    (tmp_path / "train-0.tar").symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=r"train-0.tar is a link to no file.\nMend it"):
        open_folder(str(tmp_path)).sizes()


def test_a_tar_that_is_no_file_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "train-0.tar")
    with pytest.raises(DataError, match=r"train-0.tar is no plain file"):
        open_folder(str(tmp_path)).sizes()


@pytest.fixture
def other_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder into which no file of another one can be renamed."""
    folder, rename = tmp_path / "far", Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    return folder


def test_a_file_of_another_disk_is_put_whole(other_disk: Path, tmp_path: Path):
    (tmp_path / "made").write_bytes(b"new")
    folder = open_folder(str(other_disk))
    folder.write(b"old", "train-0.tar")
    folder.put(tmp_path / "made", "train-0.tar")
    assert [(p.name, p.read_bytes()) for p in other_disk.iterdir()] == [("train-0.tar", b"new")]
    assert (other_disk / "train-0.tar").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "chmod"])
def test_what_fails_on_the_way_leaves_what_was_there(other_disk, tmp_path, monkeypatch, call):
    (tmp_path / "made").write_bytes(b"new")
    folder = open_folder(str(other_disk))
    folder.write(b"old", "train-0.tar")

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(Path, "chmod", full_disk)
    with pytest.raises(ResourceError, match="disk is full"):
        folder.put(tmp_path / "made", "train-0.tar")
    assert [(p.name, p.read_bytes()) for p in other_disk.iterdir()] == [("train-0.tar", b"old")]


def test_a_file_is_removed_once_and_again(tmp_path: Path, s3: str):
    for url in (str(tmp_path / "shards"), s3):
        folder = open_folder(url)
        folder.write(b"x", "mark")
        folder.write(b"y", "other")
        folder.remove("mark")
        folder.remove("mark")
        assert folder.sizes() == {"other": 1}


def test_a_file_that_is_longer_than_one_of_grafts_is_not_read(tmp_path: Path):
    (tmp_path / "mark").write_bytes(b"1234")
    assert open_folder(str(tmp_path)).read("mark", 4) == b"1234"
    with pytest.raises(DataError, match=r"mark has more than 3 bytes: it is not graft's"):
        open_folder(str(tmp_path)).read("mark", 3)


def test_a_full_disk_is_said_to_be_whatever_is_done(tmp_path: Path, monkeypatch):
    (tmp_path / "made").write_bytes(b"new")
    folder = open_folder(str(tmp_path / "far"))
    folder.write(b"old", "mark")
    monkeypatch.setattr(folder.fs, "rm_file", full_disk)
    with pytest.raises(ResourceError, match=r"The disk is full while writing .*far/mark"):
        folder.remove("mark")
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(ResourceError, match=r"The disk is full while writing .*far/mark"):
        folder.put(tmp_path / "made", "mark")
    assert (tmp_path / "far" / "mark").read_bytes() == b"old"
