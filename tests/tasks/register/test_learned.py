"""The list of images that a version learned from: what is in it, and what it finds."""

from __future__ import annotations

import numpy as np

from tasks.artifacts import sha256_bytes
from tasks.index import ImageRecord, read_index
from tasks.register.learned import Learned, count_seen, from_bytes, learned_images, to_bytes


def record(name: str, sha256: str) -> ImageRecord:
    return ImageRecord(name, 0, "test", "", sha256)


def test_training_and_validation_images_are_in_it_and_no_test_image(prepared):
    learned = learned_images(prepared)
    assert count_seen(learned, read_index(prepared.train.index)) == prepared.train.n
    assert count_seen(learned, read_index(prepared.val.index)) == prepared.val.n
    assert count_seen(learned, read_index(prepared.test.index)) == 0


def test_it_is_read_back_as_it_was_and_lies_in_order(prepared):
    learned = learned_images(prepared)
    content = to_bytes(learned)
    assert np.array_equal(from_bytes(content), learned)
    entries = [content[i : i + 8] for i in range(0, len(content), 8)]
    assert entries == sorted(entries)
    digests = [r.sha256 for r in read_index(prepared.train.index)]
    assert all(bytes.fromhex(digest)[:8] in entries for digest in digests)


def test_every_copy_of_an_image_counts_and_nothing_is_in_no_list():
    digests = [sha256_bytes(bytes([i])) for i in range(4)]
    records = [record(f"{i}.png", digest) for i, digest in enumerate([*digests, digests[0]])]
    learned = np.array([int(digests[0][:16], 16), int(digests[2][:16], 16)], dtype=np.uint64)
    assert count_seen(learned, records) == 3
    assert count_seen(np.empty(0, np.uint64), records) == 0
    assert count_seen(learned, []) == 0
    assert from_bytes(b"").size == 0


def test_a_count_that_may_be_too_small_is_told_only_where_it_is_not_zero():
    digests = [sha256_bytes(bytes([i])) for i in range(3)]
    records = [record(f"{i}.png", digest) for i, digest in enumerate(digests)]
    one, other = (np.array([int(digest[:16], 16)], np.uint64) for digest in digests[:2])
    assert Learned().seen_of(records) == 0
    assert Learned(complete=False).seen_of(records) is None
    assert (Learned(one) | Learned(other)).seen_of(records) == 2
    assert (Learned(one, complete=False) | Learned(other)).seen_of(records) == 2
    assert (Learned(one, complete=False) | Learned()).seen_of(records[1:]) is None
