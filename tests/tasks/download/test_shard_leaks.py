"""Leaks in millions of numbers, held to a plain look at every pair."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.config import DataConfig
from tasks.download.shard_leaks import Numbers, find_leaks

SPLITS = ("train", "train", "train", "val", "val", "test")
WARN = dict.fromkeys(("exact_duplicates", "conflicting_labels", "group_leakage"), "warn")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kinds", [3, 40, 4_000])
def test_what_is_found_is_what_pairs_show(seed: int, kinds: int):
    rng = np.random.default_rng(seed)
    found = []
    for number, split in enumerate(SPLITS):
        n = int(rng.integers(1, 30))
        images = rng.integers(0, kinds, n).astype(np.uint64)
        labels = (images % 7 + (rng.random(n) < 0.05)).astype(np.uint32)
        groups = np.unique(rng.integers(0, kinds, rng.integers(0, 5)).astype(np.uint64))
        found.append(Numbers(f"{split}-{number}.tar", split, images, labels, groups))
    splits: dict[int, set[str]] = {}
    labels_of: dict[int, set[int]] = {}
    groups_of: dict[int, set[str]] = {}
    for each in found:
        for image, label in zip(each.prefixes.tolist(), each.labels.tolist(), strict=True):
            splits.setdefault(image, set()).add(each.split)
            labels_of.setdefault(image, set()).add(label)
        for group in each.groups.tolist():
            groups_of.setdefault(group, set()).add(each.split)
    wanted = [sum(len(of) > 1 for of in table.values()) for table in (splits, labels_of, groups_of)]
    findings = find_leaks(found, DataConfig(kind="shards", path="x", checks=WARN))
    assert [finding.found for finding in findings] == wanted
    for example in findings[0].examples:
        places = [part.removeprefix("image ").split(" of ") for part in example.split(" = ")]
        held = {name: numbers for numbers in found for name in [numbers.shard]}
        values = {int(held[name].prefixes[int(at) - 1]) for at, name in places}
        assert len(values) == 1
        assert {name.split("-")[0] for _, name in places} == splits[values.pop()]
