"""The list of images that a version learned from: what is in it, what it finds, what it costs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tasks import spilled
from tasks.artifacts import sha256_bytes
from tasks.index import ImageRecord, read_index
from tasks.register import learned as module
from tasks.register.learned import Learned, learned_images, read_list

DIGESTS = [sha256_bytes(bytes([i])) for i in range(4)]


def record(name: str, sha256: str) -> ImageRecord:
    return ImageRecord(name, 0, "test", "", sha256)


def images(*digests: str) -> Learned:
    return Learned((np.array([int(digest[:16], 16) for digest in digests], np.uint64),))


def test_training_and_validation_images_are_in_it_and_no_test_image(prepared):
    learned = learned_images(prepared)
    assert learned.count_seen(read_index(prepared.train.index)) == prepared.train.n
    assert learned.count_seen(read_index(prepared.val.index)) == prepared.val.n
    assert learned.count_seen(read_index(prepared.test.index)) == 0


def test_it_is_written_in_order_each_once_and_read_back(prepared, tmp_path):
    learned = learned_images(prepared)
    (learned | learned).write(tmp_path / "list")
    content = (tmp_path / "list").read_bytes()
    entries = [content[i : i + 8] for i in range(0, len(content), 8)]
    records = [*read_index(prepared.train.index), *read_index(prepared.val.index)]
    assert entries == sorted({bytes.fromhex(record.sha256)[:8] for record in records})
    again = read_list(tmp_path / "list")
    (tmp_path / "list").unlink()  # as a version's files go, once they are read
    assert again.seen(records).all()
    again.write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_of_any_size_make_one_list(size, tmp_path, monkeypatch):
    monkeypatch.setattr(spilled, "PIECE", size)
    draw = np.random.default_rng(size)
    parts = [draw.integers(0, 20, n, dtype=np.uint64) for n in (0, 1, 30, 5)]
    parts.append(np.array([0, 2**64 - 1], np.uint64))
    learned = Learned(tuple(parts))
    learned.write(tmp_path / "list")
    expected = np.unique(np.concatenate(parts))
    assert (tmp_path / "list").read_bytes() == expected.astype(">u8").tobytes()
    records = [record(f"{n}", f"{n:016x}{0:048x}") for n in [*range(25), 2**64 - 1]]
    told = np.isin([int(r.sha256[:16], 16) for r in records], expected)
    assert np.array_equal(learned.seen(records), told)
    assert np.array_equal(read_list(tmp_path / "list").seen(records), told)


def test_every_copy_of_an_image_counts_and_nothing_is_in_no_list(tmp_path):
    records = [record(f"{i}.png", digest) for i, digest in enumerate([*DIGESTS, DIGESTS[0]])]
    assert images(DIGESTS[0], DIGESTS[2]).count_seen(records) == 3
    assert Learned().count_seen(records) == 0
    assert images(DIGESTS[0]).count_seen([]) == 0
    Learned().write(tmp_path / "none")
    assert (tmp_path / "none").read_bytes() == b""
    assert read_list(tmp_path / "none").count_seen(records) == 0


def test_a_count_that_may_be_too_small_is_told_only_where_it_is_not_zero():
    records = [record(f"{i}.png", digest) for i, digest in enumerate(DIGESTS[:3])]
    one, other, unknown = images(DIGESTS[0]), images(DIGESTS[1]), Learned(complete=False)
    assert Learned().seen_of(records) == 0
    assert unknown.seen_of(records) is None
    assert (one | other).seen_of(records) == 2
    assert (one | other | unknown).seen_of(records) == 2
    assert (one | unknown).seen_of(records[1:]) is None


def test_it_takes_no_memory_that_grows_with_the_images(tmp_path):
    """Of 2 million images, twice: 32 MB, of which the process's own memory sees a few pieces."""
    draw = np.random.default_rng(0)
    pieces = (draw.integers(0, 2**63, 100_000, dtype=np.uint64) for _ in range(20))
    few = [record(f"{i}.png", digest) for i, digest in enumerate(DIGESTS)]
    tracemalloc.start()
    learned = Learned((module._on_disk(pieces),))
    learned.write(tmp_path / "list")
    twice = learned | read_list(tmp_path / "list")
    assert twice.count_seen(few) == 0
    twice.write(tmp_path / "list-2")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8e6, most
    assert (tmp_path / "list-2").read_bytes() == (tmp_path / "list").read_bytes()
