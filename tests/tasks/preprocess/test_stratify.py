"""Images of several labels: every label is dealt by the fractions, and none is lost to train."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import ImageRecord, count_labels
from tasks.preprocess.splits import assign_splits
from tasks.preprocess.stratify import largest_remainder, stratify

CONFIG = DataConfig(kind="manifest", path="labels.csv", multi_label=True)
SHARES = [0.7, 0.1, 0.2]
RATES = (0.5, 0.3, 0.1, 0.04, 0.02)  # of each label, independent
CLASSES = tuple("abcde")


def draw(n: int, seed: int, groups: int = 0) -> list[ImageRecord]:
    """Return images of independent labels, each label at least once; many have none."""
    rng = random.Random(seed)
    records = [ImageRecord(f"x{k}", (k,), "", "", f"x{k}") for k in range(len(RATES))]
    for i in range(n):
        labels = tuple(k for k, rate in enumerate(RATES) if rng.random() < rate)
        group = f"g{rng.randrange(groups)}" if groups else ""
        records.append(ImageRecord(f"{i:04}", labels, "", group, str(i)))
    return records


def off(splits: dict[str, list[ImageRecord]], records: list[ImageRecord]) -> float:
    """Return the mean over splits and labels of how far the share of a label is off."""
    images = count_labels(records)
    counts = [count_labels(splits[name]) for name in ("train", "val", "test")]
    return float(
        np.mean(
            [
                abs(count[k] / images[k] - share)
                for count, share in zip(counts, SHARES, strict=True)
                for k in images
            ]
        )
    )


def at_random(records: list[ImageRecord], seed: int) -> dict[str, list[ImageRecord]]:
    shuffled = records.copy()
    random.Random(seed).shuffle(shuffled)
    train, val, _ = largest_remainder(len(records), SHARES)
    return {
        "train": shuffled[:train],
        "val": shuffled[train : train + val],
        "test": shuffled[train + val :],
    }


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_dealt_by_the_fractions_and_far_better_than_at_random(seed: int) -> None:
    records = draw(600, seed)
    splits = assign_splits(records, CLASSES, CONFIG, seed)
    assert sorted(chain(*splits.values())) == sorted(records)
    sizes = [len(splits[name]) for name in ("train", "val", "test")]
    assert np.abs(np.array(sizes) / len(records) - SHARES).max() < 0.02
    chance = np.mean([off(at_random(records, s), records) for s in range(20)])
    assert off(splits, records) < chance / 2
    rarest, n = min(count_labels(records).items(), key=lambda item: item[1])
    dealt = [count_labels(splits[name])[rarest] for name in ("train", "val", "test")]
    assert dealt == largest_remainder(n, SHARES)  # it is dealt first, when all is still open
    bare = [sum(not r.labels for r in splits[name]) for name in ("train", "val", "test")]
    assert np.abs(np.array(bare) / sum(bare) - SHARES).max() < 0.02


def test_of_one_label_each_the_counts_are_the_rounded_fractions() -> None:
    """Where labels exclude each other, the method is plain stratification: a closed form."""
    counts = (100, 57, 10, 3)
    records = [
        ImageRecord(f"{k}/{i}", (k,), "", "", f"{k}-{i}")
        for k, n in enumerate(counts)
        for i in range(n)
    ]
    splits = assign_splits(records, ("a", "b", "c", "d"), CONFIG, seed=3)
    for label, n in enumerate(counts):
        dealt = [count_labels(splits[name])[label] for name in ("train", "val", "test")]
        assert dealt == largest_remainder(n, SHARES)


def test_the_seed_decides_and_the_order_does_not() -> None:
    records = draw(200, 1)
    first = assign_splits(records, CLASSES, CONFIG, seed=1)
    random.Random(0).shuffle(records)
    assert assign_splits(records, CLASSES, CONFIG, seed=1) == first
    assert assign_splits(records, CLASSES, CONFIG, seed=2) != first


@pytest.mark.parametrize("seed", range(10))
def test_groups_stay_whole_and_train_has_every_label(seed: int) -> None:
    records = draw(300, seed, groups=40)
    splits = assign_splits(records, CLASSES, CONFIG, seed)
    places: dict[str, set[str]] = {}
    for name, split in splits.items():
        for record in split:
            places.setdefault(record.group or record.path, set()).add(name)
    assert all(len(names) == 1 for names in places.values())
    assert set(count_labels(splits["train"])) == set(range(len(CLASSES)))


@pytest.mark.parametrize("seed", range(40))
def test_train_has_every_label_however_few_images_and_many_labels(seed: int) -> None:
    rng = random.Random(seed)
    labels = [tuple(sorted(rng.sample(range(20), rng.randint(0, 6)))) for _ in range(18)]
    known = sorted({label for each in labels for label in each})
    records = [
        ImageRecord(str(i), tuple(known.index(k) for k in each), "", "", str(i))
        for i, each in enumerate(labels)
    ]
    splits = assign_splits(records, tuple(map(str, known)), CONFIG, seed)
    assert set(count_labels(splits["train"])) == set(range(len(known)))
    assert all(splits.values())


Units = list[list[ImageRecord]]


def labels_of(records: list[ImageRecord]) -> Counter[int]:
    """Count images by label; to have none is label -1."""
    return Counter(label for record in records for label in record.labels or (-1,))


def by_the_paper(units: Units, shares: dict[str, float]) -> dict[str, list[ImageRecord]]:
    """Deal as the docstring of ``stratify`` says, with everything counted anew for each unit."""

    def goals(n: int) -> dict[str, float]:
        parts = list(shares.values())
        whole = largest_remainder(n, parts) if n >= len(parts) else [n * part for part in parts]
        return dict(zip(shares, whole, strict=True))

    every = [record for unit in units for record in unit]
    room, wanted = goals(len(every)), {k: goals(n) for k, n in labels_of(every).items()}
    splits: dict[str, list[ImageRecord]] = {name: [] for name in shares}
    waiting = units.copy()
    while waiting:
        left = Counter(label for unit in waiting for label in labels_of(unit))
        rarest = min(left, key=lambda label: (left[label], label))
        for unit in [unit for unit in waiting if rarest in labels_of(unit)]:
            left = Counter(label for unit in waiting for label in labels_of(unit))
            new = labels_of(unit).keys() - labels_of(splits["train"]).keys()
            lacks = {
                name: (wanted[rarest][name] - labels_of(dealt)[rarest], room[name] - len(dealt))
                for name, dealt in splits.items()
            }
            last = any(left[label] == 1 for label in new)
            splits["train" if last else max(lacks, key=lambda name: lacks[name])] += unit
            waiting.remove(unit)
    return splits


@pytest.mark.parametrize("seed", range(24))
def test_units_are_dealt_as_the_paper_says(seed: int) -> None:
    rng = random.Random(seed)
    rates = (0.5, 0.3, 0.2, 0.1, 0.06, 0.04)
    units = [
        [
            ImageRecord(
                f"{u}/{i}",
                tuple(k for k, rate in enumerate(rates) if rng.random() < rate),
                "",
                "",
                f"{u}-{i}",
            )
            for i in range(rng.choice((1, 1, 2, 4)))
        ]
        for u in range(rng.randint(12, 40))
    ]
    shares = rng.choice(({"train": 0.7, "val": 0.1, "test": 0.2}, {"train": 0.75, "test": 0.25}))
    expected = by_the_paper(units, shares)
    assert all(expected.values())
    assert stratify(units, shares) == expected


def test_declared_splits_stay() -> None:
    records = draw(100, 0)
    fixed = [r._replace(split="test") for r in records[50:]]
    splits = assign_splits([*records[:50], *fixed], CLASSES, CONFIG, 0)
    assert splits["test"] == sorted(fixed)
    assert Counter(len(s) > 0 for s in splits.values()) == {True: 3}


def test_too_few_images_are_refused() -> None:
    records = [ImageRecord(str(i), (0, 1), "", "one patient", str(i)) for i in range(9)]
    with pytest.raises(DataError, match="none is left for val, test"):
        assign_splits(records, ("a", "b"), CONFIG, 0)


def test_a_split_without_any_label_is_refused() -> None:
    fixed = [ImageRecord(f"t{i}", (), "test", "", f"t{i}") for i in range(5)]
    with pytest.raises(DataError, match="No image of test has a label"):
        assign_splits([*draw(50, 0), *fixed], CLASSES, CONFIG, 0)
