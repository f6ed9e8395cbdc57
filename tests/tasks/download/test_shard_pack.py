"""Names and contents of shards before they are packed."""

from __future__ import annotations

import pytest

from tasks.download.shard_pack import Packing, parcels, shard_names
from tasks.errors import DataError
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
