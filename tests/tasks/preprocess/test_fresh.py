"""New images packed as one split: all of them, or what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.artifacts import sha256_file
from tasks.errors import DataError
from tasks.index import ImageRecord
from tasks.preprocess.fresh import pack_fresh
from tasks.values import InputSpec
from tests.tasks.shard_folders import picture


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    """Return two images and a file that is none."""
    (tmp_path / "new").mkdir()
    for name, content in (("a", picture(0, 0)), ("b", picture(1, 1)), ("c", b"no image")):
        (tmp_path / "new" / f"{name}.png").write_bytes(content)
    paths = sorted((tmp_path / "new").iterdir())
    return [ImageRecord(p.name, k, "test", "", sha256_file(p)) for k, p in enumerate(paths)]


def pack(tmp_path: Path, records: list[ImageRecord], spec: InputSpec, policy: str):
    folder = tmp_path / "packed"
    folder.mkdir()
    return pack_fresh(folder, tmp_path / "new", records, spec, 3, False, policy)


def test_what_can_be_used_is_packed_and_the_rest_told(tmp_path: Path, records, spec: InputSpec):
    packed, (bad,) = pack(tmp_path, records, spec, "skip")
    assert (packed.n, packed.counts, bad.path) == (2, (1, 1, 0), "c.png")
    assert np.load(packed.labels).tolist() == [0, 1]


@pytest.mark.parametrize(("policy", "first"), [("fail", 0), ("skip", 2)])
def test_a_bad_image_fails_and_so_does_having_no_good_one(
    policy: str, first: int, tmp_path: Path, records, spec: InputSpec
):
    words = rf"^1 of {3 - first} images cannot be used .*on_bad_image=skip.*:\nc.png \(.*\)$"
    with pytest.raises(DataError, match=words):
        pack(tmp_path, records[first:], spec, policy)
