"""Names and contents of shards before they are packed."""

from __future__ import annotations

import sys

import pytest

from tasks.artifacts import sha256_bytes
from tasks.download.shard_pack import Packing, Sizes, pack_shard, parcels, shard_names
from tasks.errors import ConfigError, DataError
from tasks.index import ImageRecord


def test_names_stay_in_order_beyond_a_million():
    found = list(shard_names("train", 1_000_001))
    assert (len(set(found)), found[0]) == (1_000_001, "train-0000000.tar")
    assert sorted(found) == found
    assert next(shard_names("train", 1_000_000)) == "train-000000.tar"
    assert list(shard_names("val", 2)) == ["val-000000.tar", "val-000001.tar"]


def test_a_file_that_vanished_is_named_in_two_lines(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    records = [ImageRecord(name, 0, "train", "", "0" * 64) for name in ("a.png", "b.png")]
    with pytest.raises(DataError, match=r"^b.png cannot be read: No such .*\nIt could when"):
        list(parcels(records, tmp_path, Packing()))


def test_no_image_makes_no_shard(tmp_path):
    assert list(parcels([], tmp_path, Packing())) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gone", r"^a.png cannot be read: No such file.*\nIt could when"),
        ("changed", r"^a.png changed while graft was at work.\nRun again"),
        ("large", r"^a.png has 9 bytes; .* at most 8 are read.\nMake it smaller"),
    ],
)
def test_an_image_that_cannot_be_packed_is_named_in_two_lines(fault, words, tmp_path, monkeypatch):
    if fault != "gone":
        (tmp_path / "a.png").write_bytes(b"123456789")
    held = b"another" if fault == "changed" else b"123456789"
    monkeypatch.setattr("tasks.download.shard_pack.IMAGE_BYTES", 8)
    record = ImageRecord("a.png", 0, "train", "", sha256_bytes(held))
    with pytest.raises(DataError, match=words):
        pack_shard(tmp_path / "x.tar", "train", [record], 0, tmp_path, ("a",), Sizes())


def test_without_webdataset_nothing_is_packed_and_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ConfigError, match=r"need webdataset.*\nInstall graft\[shards\]"):
        pack_shard(tmp_path / "x.tar", "train", [], 0, tmp_path, ("a",), Sizes())
