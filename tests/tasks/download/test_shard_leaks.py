"""Leaks in millions of numbers, held to a plain look at every pair."""

from __future__ import annotations

import numpy as np
import pytest

from tasks import spilled
from tasks.config import DataConfig
from tasks.download.shard_address import open_folder
from tasks.download.shard_leaks import find_leaks
from tasks.download.shard_numbers import Part, numbers_beside

SPLITS = ("train", "train", "train", "val", "val", "test")
CHECKS = ("exact_duplicates", "conflicting_labels", "group_leakage")
WARN = DataConfig(kind="shards", path="x", checks=dict.fromkeys(CHECKS, "warn"))
POSITION = [3, 0, 6, 1, 2, 5, 4, 7]  # of each label's number among the classes

Shard = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def drawn(seed: int, kinds: int) -> list[Shard]:
    """Return (split, images, labels, groups) of some shards."""
    rng, shards = np.random.default_rng(seed), []
    for split in SPLITS:
        n = int(rng.integers(1, 30))
        images = rng.integers(0, kinds, n).astype(np.uint64)
        labels = (images % 7 + (rng.random(n) < 0.05)).astype(np.uint32)
        groups = rng.integers(0, kinds, rng.integers(0, 5)).astype(np.uint64)
        shards.append((split, images, labels, groups))
    return shards


def on_two_sides(rows: list[tuple[int, int, str]], between: str) -> list[str]:
    """Return what is said of each value that comes on two sides, of (value, side, where)."""
    sides: dict[int, dict[int, str]] = {}
    for value, side, where in rows:
        sides.setdefault(value, {}).setdefault(side, where)
    torn = [sides[value] for value in sorted(sides) if len(sides[value]) > 1]
    return [between.join(of[side] for side in sorted(of)) for of in torn]


def plain(shards: list[Shard]) -> list[list[str]]:
    """Return what is said of all that each check finds, by a look at every number."""
    copies, conflicts, torn = [], [], []
    for shard, (split, images, labels, groups) in enumerate(shards):
        side = ("train", "val", "test").index(split)
        for n, (value, label) in enumerate(zip(images.tolist(), labels.tolist(), strict=True)):
            where = f"image {n + 1} of {split}-{shard}.tar"
            copies.append((value, side, where))
            conflicts.append((value, POSITION[label], where))
        torn += [(value, side, f"{split}-{shard}.tar") for value in groups.tolist()]
    betweens = (" = ", " = ", " and ")
    return [on_two_sides(*each) for each in zip((copies, conflicts, torn), betweens, strict=True)]


@pytest.mark.parametrize("piece", [3, 20, 1_000])
@pytest.mark.parametrize("kinds", [3, 40, 4_000])
def test_what_is_found_is_what_pairs_show(piece: int, kinds: int, tmp_path, monkeypatch):
    monkeypatch.setattr(spilled, "PIECE", piece)
    for seed in range(6):
        shards = drawn(seed, kinds)
        with numbers_beside(open_folder(str(tmp_path))) as numbers:
            parts = [Part(f"{s}-{n}.tar", s, [], []) for n, (s, *_) in enumerate(shards)]
            # as they come when threads read several shards at once
            for half in (slice(7), slice(7, None)):
                for part, (_, *arrays) in zip(parts[::-1], shards[::-1], strict=True):
                    numbers.append(part, *(array[half] for array in arrays))
            findings = find_leaks(numbers, parts, POSITION, WARN)
        wanted = plain(shards)
        assert [finding.check for finding in findings] == list(CHECKS)
        assert [finding.found for finding in findings] == [len(each) for each in wanted]
        assert [list(finding.examples) for finding in findings] == [x[:20] for x in wanted]
    assert list(tmp_path.iterdir()) == []
