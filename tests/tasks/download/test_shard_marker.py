"""What is no whole folder of shards is known by its mark, and nobody's tars are overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config import DataConfig
from tasks.download import shard_write
from tasks.download.shard_folder import Folder
from tasks.download.shard_index import index_shards
from tasks.download.shard_marker import UNFINISHED
from tasks.download.shard_pack import Packing
from tasks.download.shard_samples import read_samples
from tasks.download.shard_write import write_shards
from tasks.download.shards import INDEX_FILE
from tasks.errors import DataError, ResourceError


@pytest.fixture
def photos(tree) -> DataConfig:
    folder = tree(*(f"{name}/{number}.png" for name in "ab" for number in range(12)))
    return DataConfig(kind="folder", path=str(folder))


def stopped(photos: DataConfig, cache: Path, url: str, monkeypatch, at: str) -> None:
    """Write shards of three until one fails."""
    put = Folder.put

    def failing(self: Folder, path: Path, name: str) -> None:
        if name == at:
            raise ResourceError("full")
        put(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", failing)
        with pytest.raises(ResourceError):
            write_shards(photos, 0, cache, url, Packing(3))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_stopped_is_marked_and_no_part_of_what_is_written_next(
    photos, tmp_path, monkeypatch
):
    shards, cache = tmp_path / "shards", tmp_path / "cache"
    stopped(photos, cache, str(shards), monkeypatch, "test-000000.tar")
    assert {UNFINISHED, "train-000004.tar", "val-000000.tar"} <= names(shards)
    with pytest.raises(DataError, match=r"graft-shards.unfinished: .*\nRun that to its end"):
        index_shards(DataConfig(kind="shards", path=str(shards)))
    (shards / ".val-000000.tar.x_1y2z3w").write_bytes(b"")  # on its way when it was killed
    (shards / "mine.txt").write_bytes(b"")
    made = write_shards(photos, 0, cache, str(shards), Packing(100))
    digests = {f"{split}.digests.bin" for split in ("train", "val", "test")}
    wanted = {shard.name for shard in made.index.shards} | digests | {INDEX_FILE, "mine.txt"}
    assert names(shards) == wanted
    index_shards(DataConfig(kind="shards", path=str(shards)))


def test_a_mark_beside_an_index_goes_with_what_it_marks(photos, tmp_path):
    shards = tmp_path / "shards"
    made = write_shards(photos, 0, tmp_path / "cache", str(shards), Packing(100))
    before = names(shards)
    (shards / UNFINISHED).write_bytes(b"")  # killed after the index was written
    (shards / "train-000009.tar").write_bytes(b"")
    again = write_shards(photos, 0, tmp_path / "cache", str(shards), Packing(100))
    assert (again.index, again.new) == (made.index, False)
    assert names(shards) == before


def test_of_two_that_write_to_one_folder_at_once_the_first_gives_up(photos, tmp_path, monkeypatch):
    shards, put, later = tmp_path / "shards", Folder.put, []

    def overtaken(self: Folder, path: Path, name: str) -> None:
        put(self, path, name)
        if not later:
            later.append(None)
            later.append(write_shards(photos, 1, tmp_path / "c", str(shards), Packing(5)))

    monkeypatch.setattr(Folder, "put", overtaken)
    with pytest.raises(DataError, match=r"Another graft shards has begun .*\nLet it"):
        write_shards(photos, 0, tmp_path / "cache", str(shards), Packing(3))
    made = later[1]
    assert UNFINISHED not in names(shards)
    for shard in made.index.shards:
        assert len(list(read_samples(str(shards), shard, made.index.classes))) == shard.images


@pytest.mark.parametrize("name", ["train-0000.tar", "test-a.tar", "val-000000.tar"])
def test_tars_of_others_are_left_alone(photos, tmp_path, snapshot, name, monkeypatch):
    monkeypatch.setattr(shard_write, "download", None)  # before an image is looked at
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / name).write_bytes(b"theirs")
    with pytest.raises(DataError, match=rf"{name}.\nName an empty folder; .*--index"):
        write_shards(photos, 0, tmp_path / "cache", str(shards))
    assert snapshot(shards) == {name: b"theirs"}


def test_a_store_is_marked_and_cleared_too(photos, s3, tmp_path, monkeypatch):
    import fsspec

    files, cache = fsspec.filesystem("s3"), tmp_path / "cache"
    stopped(photos, cache, s3, monkeypatch, "train-000002.tar")
    with pytest.raises(DataError, match="Run that to its end"):
        index_shards(DataConfig(kind="shards", path=s3))
    made = write_shards(photos, 0, cache, s3, Packing(100))
    files.invalidate_cache()
    left = {Path(path).name for path in files.ls(s3)}
    assert {n for n in left if n.endswith(".tar")} == {shard.name for shard in made.index.shards}
    assert UNFINISHED not in left
