"""Numbers of all images, in files: what is written of them, and what memory they take."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np

from tasks import spilled
from tasks.artifacts import sha256_file
from tasks.config import DataConfig
from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Folder
from tasks.download.shard_index import _Looked, _write
from tasks.download.shard_leaks import find_leaks
from tasks.download.shard_numbers import Numbers, Part, numbers_beside
from tasks.download.shard_pack import Sizes
from tasks.download.shards import INDEX_FILE
from tasks.splitvalues import Shard, ShardIndex


def parts_of(numbers: Numbers, shards: int, images: int, classes: int) -> list[Part]:
    """Put shards of train into ``numbers``, and one each of val and test; most images are copies.

    They come in pieces, as when threads read several shards at once.
    """
    rng = np.random.default_rng(0)
    names = [("train", n) for n in range(shards)] + [("val", 0), ("test", 0)]
    parts = [Part(f"{split}-{n:04}.tar", split, [], []) for split, n in names]
    every, none = len(parts) * images, np.zeros(0, np.uint64)
    for _ in range(4):
        for part in parts[::-1]:
            values = rng.integers(every, size=images // 4, dtype=np.uint64) * np.uint64(1 << 40)
            labels = rng.integers(classes, size=images // 4, dtype=np.uint32)
            numbers.append(part, values, labels, values if part.split == "val" else none)
    return parts


def looked_at(parts: list[Part], images: int) -> list[_Looked]:
    """Return what ``_look`` would, of shards of so many images."""
    given = {"images": images, "size": 1 << 40, "sha256": "0" * 64}
    return [
        _Looked(Shard(name=part.shard, split=part.split, **given), part, Sizes(), [], 0)
        for part in parts
    ]


def written(
    folder: Folder, numbers: Numbers, looked: list[_Looked], classes: int
) -> tuple[ShardIndex, bytes]:
    names = tuple(f"{number:05}" for number in range(classes))
    return _write(folder, looked, numbers, names, numbers.counts(classes))


def test_what_is_written_is_what_memory_would_give(tmp_path, monkeypatch):
    monkeypatch.setattr(spilled, "PIECE", 100)
    shards, images, classes = 4, 400, 30
    folder = open_folder(str(tmp_path))
    with numbers_beside(folder) as numbers:
        parts = parts_of(numbers, shards, images, classes)
        rows = {x.shard: np.concatenate([*map(numbers.images.read, x.images)]) for x in parts}
        index, content = written(folder, numbers, looked_at(parts, images), classes)
    assert content == (tmp_path / INDEX_FILE).read_bytes()
    assert len({*tmp_path.iterdir()}) == 4
    for split in ("train", "val", "test"):
        held = np.concatenate([rows[name] for name in sorted(rows) if name.startswith(split)])
        path = tmp_path / f"{split}.digests.bin"
        assert path.read_bytes() == held["value"].astype(">u8").tobytes()
        assert path.stat().st_mode & 0o777 == 0o644
        assert index.prefixes[split] == sha256_file(path)
        assert index.counts[split] == tuple(np.bincount(held["label"], minlength=classes))


def test_memory_does_not_grow_with_the_images(tmp_path):
    """Of a million, most of them copies, a few pieces are held: with all of them it were 21 MB."""
    config = DataConfig(kind="shards", path="x", checks={"exact_duplicates": "warn"})
    folder = open_folder(str(tmp_path))
    with numbers_beside(folder) as numbers:
        tracemalloc.start()
        parts = parts_of(numbers, 18, 50_000, 1_000)
        found = find_leaks(numbers, parts, range(1_000), config)
        written(folder, numbers, looked_at(parts, 50_000), 1_000)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found[0].found > 50_000
    assert most < 11e6, most


def test_a_store_is_given_files_of_digests(tmp_path, monkeypatch):
    """As adlfs asks for: its put_file refuses what is there, and pipe_file takes bytes alone."""
    given: dict[str, bytes] = {}

    class Store:
        def put_file(self, path: str, name: str, overwrite: bool = False) -> None:
            assert overwrite
            given[name] = Path(path).read_bytes()

        def pipe_file(self, path: str, value: bytes) -> None:
            assert type(value) is bytes
            given[path] = value

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = Folder("az://b/x", "b/x", Store(), remote=True)
    with numbers_beside(folder) as numbers:
        parts = parts_of(numbers, 2, 400, 2)
        train = numbers.digests(part for part in parts if part.split == "train")
        written(folder, numbers, looked_at(parts, 400), 2)
        assert given["b/x/train.digests.bin"] == b"".join(train)
    names = [*(f"{split}.digests.bin" for split in ("train", "val", "test")), INDEX_FILE]
    assert list(given) == [f"b/x/{name}" for name in names]
    assert list(tmp_path.iterdir()) == []
