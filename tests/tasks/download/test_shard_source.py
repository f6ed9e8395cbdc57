"""Downloading shards: the index, and validation and test as files; training images stay."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tasks.config import DataConfig
from tasks.download.identity import content_digest, download_key
from tasks.download.shard_index import index_shards
from tasks.download.shard_pack import Packing
from tasks.download.shard_write import Written, write_shards
from tasks.download.shards import INDEX_FILE, index_digest
from tasks.download.source import download
from tasks.errors import ConfigError, DataError, ResourceError
from tasks.index import read_index
from tasks.presence import is_present
from tests.tasks.download.conftest import full_disk


@pytest.fixture
def made(tmp_path, tree) -> tuple[Written, Path]:
    """Return shards of 40 images, and the folder that the images are in."""
    source = tree(*(f"{name}/{number}.png" for name in "ab" for number in range(20)))
    config = DataConfig(kind="folder", path=str(source))
    target = tmp_path / "shards"
    return write_shards(config, 0, tmp_path / "made", str(target), Packing(5)), source


def test_validation_and_test_become_files(made, tmp_path):
    written, source = made
    config = DataConfig(kind="shards", path=written.url, sha256=written.sha256)
    raw = download(config, tmp_path / "cache")
    assert raw.digest == written.index.digest
    assert raw.counts == {"train": 28, "val": 4, "test": 8}
    assert raw.shards.read_bytes() == (tmp_path / "shards" / INDEX_FILE).read_bytes()
    records = read_index(raw.index)
    assert {split: sum(r.split == split for r in records) for split in ("val", "test")} == {
        "val": 4,
        "test": 8,
    }
    for record in records:
        content = (raw.root / record.path).read_bytes()
        assert content == (source / record.path.partition("/")[2]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == record.sha256
        assert raw.classes[record.labels[0]] == record.path.split("/")[1]
    assert is_present(raw)


def test_they_are_fetched_once_for_each_content(made, tmp_path, s3):
    import fsspec

    written, source = made
    given = DataConfig(kind="shards", path=written.url)
    raw = download(given, tmp_path / "cache")
    for path in (tmp_path / "shards").glob("*.tar"):
        path.unlink()
    assert download(given, tmp_path / "cache") == raw
    (raw.root / read_index(raw.index)[0].path).unlink()
    assert not is_present(raw)
    with pytest.raises(DataError, match="is not there"):
        download(given, tmp_path / "cache")
    write_shards(DataConfig(kind="folder", path=str(source)), 0, tmp_path / "made", s3, Packing(5))
    assert download(given.model_copy(update={"path": s3}), tmp_path / "cache") == raw
    assert is_present(raw)
    assert fsspec.filesystem("s3").exists(f"{s3}/{INDEX_FILE}")


def test_a_download_is_kept_by_the_index(made, tmp_path):
    written, _ = made
    config = DataConfig(kind="shards", path=written.url)
    assert content_digest(config) == written.sha256
    before = download_key(config, tmp_path)
    path = tmp_path / "shards" / INDEX_FILE
    path.write_bytes(path.read_bytes() + b"\n")
    assert download_key(config, tmp_path) not in (None, before)
    path.unlink()
    assert content_digest(config) is None


def test_another_index_than_asked_for_is_refused(made, tmp_path):
    written, _ = made
    with pytest.raises(DataError, match=f"has sha256 {written.sha256}, not 0000"):
        download(DataConfig(kind="shards", path=written.url, sha256="0" * 64), tmp_path / "cache")


@pytest.mark.parametrize("name", ["val-000000.tar", "test-000001.tar"])
def test_changed_shards_leave_nothing_behind(made, tmp_path, name):
    written, _ = made
    path = tmp_path / "shards" / name
    content = bytearray(path.read_bytes())
    content[1_200] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        download(DataConfig(kind="shards", path=written.url), tmp_path / "cache")
    assert list((tmp_path / "cache" / "archives").iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [
        {"train": "x"},
        {"val_fraction": 0.3},
        {"test_fraction": 0.3},
        {"label_column": "x"},
        {"path_column": "x"},
        {"group_column": "x"},
        {"manifest": "x"},
        {"slice_columns": ("x",)},
    ],
    ids=str,
)
def test_settings_that_would_decide_nothing_are_refused(given, tmp_path):
    name = next(iter(given))
    with pytest.raises(ConfigError, match=f"data.{name} decides nothing"):
        download(DataConfig(kind="shards", path=str(tmp_path), **given), tmp_path / "cache")


def test_a_folder_without_an_index_says_what_makes_one(tmp_path):
    with pytest.raises(DataError, match=r"is not there.\n.*graft shards CONFIG --index"):
        download(DataConfig(kind="shards", path=str(tmp_path)), tmp_path / "cache")


def test_names_that_lead_out_or_come_twice_are_replaced_by_keys(tmp_path, png):
    numbers = iter(range(100))
    for split in ("train", "val", "test"):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as archive:
            for key, path in enumerate(("/etc/x.png", "../../x.png", "y.png", "y.png", "")):
                label = "ab"[key % 2]
                facts = f'{{"label": "{label}", "path": "{path}"}}'.encode()
                for suffix, content in (("png", png(next(numbers))), ("json", facts)):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    config = DataConfig(kind="shards", path=str(tmp_path))
    index_shards(config)
    raw = download(config, tmp_path / "cache")
    assert [record.path for record in read_index(raw.index) if record.split == "val"] == [
        "val/etc/x.png",
        "val/val-0.tar/1.png",
        "val/val-0.tar/3.png",
        "val/val-0/4.png",
        "val/y.png",
    ]
    found = [path.relative_to(raw.root) for path in raw.root.rglob("*") if path.is_file()]
    assert len(found) == 10


@pytest.mark.parametrize(
    ("left", "counts", "words"),
    [
        (("train", "val"), (14, 14), r"has no shard of test.\n"),
        (("train", "val", "test"), (28, 0), r"classes without a training image.*: b\."),
        (("train", "val", "test"), (28,), r"or one class only: a\."),
    ],
)
def test_an_index_of_what_no_run_could_use_is_refused(left, counts, words, made, tmp_path):
    """graft makes none, yet takes those of others."""
    path = tmp_path / "shards" / INDEX_FILE
    index = made[0].index
    classes, shards = index.classes[: len(counts)], [s for s in index.shards if s.split in left]
    other = index.model_copy(
        update={
            "classes": classes,
            "shards": tuple(shards),
            "counts": {
                name: (sum(index.counts[name]),) if len(counts) == 1 else index.counts[name]
                for name in left
            }
            | {"train": counts},
            "prefixes": {name: index.prefixes[name] for name in left},
            "digest": index_digest(classes, shards),
        }
    )
    path.write_text(other.model_dump_json())
    with pytest.raises(DataError, match=words):
        download(DataConfig(kind="shards", path=made[0].url), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("fails", ["room", "write"])
def test_a_disk_without_room_for_the_images_is_said_to_be(fails, made, tmp_path, monkeypatch):
    opened, usage = Path.open, shutil.disk_usage

    def full(self, mode="r", *rest, **given):
        if mode == "xb":
            full_disk()
        return opened(self, mode, *rest, **given)

    if fails == "room":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=9))
    else:
        monkeypatch.setattr(Path, "open", full)
    words = r"have [\d,]+ bytes, and 9 are left" if fails == "room" else "disk is full"
    with pytest.raises(ResourceError, match=words):
        download(DataConfig(kind="shards", path=made[0].url), tmp_path / "cache")
    assert list((tmp_path / "cache" / "archives").iterdir()) == []


def test_counts_that_are_not_those_of_the_images_are_refused(made, tmp_path):
    path = tmp_path / "shards" / INDEX_FILE
    facts = json.loads(path.read_text())
    facts["counts"]["val"] = [4, 0] if facts["counts"]["val"] != [4, 0] else [0, 4]
    path.write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"counts other val images of a class.*\nIndex the folder"):
        download(DataConfig(kind="shards", path=made[0].url), tmp_path / "cache")
    assert list((tmp_path / "cache" / "archives").iterdir()) == []
