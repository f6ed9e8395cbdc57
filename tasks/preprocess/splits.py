"""Which image belongs to which split: declared ones stay, missing ones are split off train."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import get_args

from tasks.artifacts import sha256_parts
from tasks.config import DataConfig
from tasks.errors import ConfigError, DataError
from tasks.index import ImageRecord, count_labels
from tasks.preprocess.stratify import Unit, largest_remainder, stratify
from tasks.values import SplitName
from tasks.words import listed

SPLITS: tuple[SplitName, ...] = get_args(SplitName)


def missing_splits(declared: set[str]) -> list[SplitName]:
    """Return the splits, of val and test, that have to be split off the training images."""
    return [name for name in SPLITS[1:] if name not in declared]


def assign_splits(
    records: list[ImageRecord], classes: tuple[str, ...], config: DataConfig, seed: int
) -> dict[SplitName, list[ImageRecord]]:
    """Give every record to one split; each split comes sorted by path.

    Declared splits stay as they are; records without one count as train. A missing val or test is
    split off train: ``val_fraction`` and ``test_fraction`` of every class, rounded by largest
    remainder, and at least one image of every class in each split. Records of one group, and
    records with equal content, are never torn apart. The outcome depends on the seed, the paths,
    groups and digests alone: not on the order of the records, nor on a library's random numbers.

    With several labels an image (``data.multi_label``) they are split off by ``stratify``; of a
    class of few images val or test may then have none.

    (scikit-learn's StratifiedGroupKFold cuts equal folds only, and its train_test_split knows no
    groups; neither keeps one image of a rare class in every split.)

    Raises ``DataError`` for a class with fewer groups than splits, or without training images, for
    a split none of whose images has a label, and ``ConfigError`` for fractions that leave nothing
    to train on.
    """
    splits: dict[SplitName, list[ImageRecord]] = {
        name: [r for r in records if r.split == name] for name in SPLITS
    }
    pool = [r for r in records if r.split not in SPLITS[1:]]
    carved = missing_splits({r.split for r in records})
    shares = _shares(carved, config)
    if config.multi_label:
        splits |= stratify(_shuffled(_units(pool), seed), shares)
    else:
        splits |= _carve(pool, classes, shares, seed)
    _check_train(splits["train"], classes)
    _check_labelled(splits)
    return {name: sorted(splits[name]) for name in SPLITS}


def _shares(carved: Sequence[SplitName], config: DataConfig) -> dict[SplitName, float]:
    """Return each new split's share of the training images, train's first."""
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    shares = {name: fractions[name] for name in carved}
    if sum(shares.values()) >= 1:
        raise ConfigError(
            "data.val_fraction and data.test_fraction leave no training images: their sum is "
            f"{sum(shares.values()):g}, and must be below 1."
        )
    return {"train": 1 - sum(shares.values()), **shares}


def _carve(
    pool: list[ImageRecord],
    classes: tuple[str, ...],
    shares: dict[SplitName, float],
    seed: int,
) -> dict[SplitName, list[ImageRecord]]:
    """Deal the pool's units out, the largest first, each to the split that lacks most of it."""
    units = _shuffled(_units(pool), seed)
    _check_units(units, classes, shares)
    wanted = _targets(pool, shares)
    left = Counter(label for unit in units for label in count_labels(unit))
    splits: dict[SplitName, list[ImageRecord]] = {name: [] for name in shares}
    seen: dict[SplitName, set[int]] = {name: set() for name in shares}
    for unit in units:
        name = _neediest(unit, wanted, left, seen)
        counts = count_labels(unit)
        splits[name] += unit
        wanted[name].subtract(counts)
        seen[name] |= counts.keys()
        left.subtract(counts.keys())
    _check_carved(seen, pool, classes)
    return splits


def _units(pool: list[ImageRecord]) -> list[Unit]:
    """Join records that share a group or a digest (union-find over both)."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for record in pool:
        group = f"group {record.group}" if record.group else f"path {record.path}"
        parent[root(group)] = root(f"sha256 {record.sha256}")
    units: dict[str, Unit] = defaultdict(list)
    for record in pool:
        units[root(f"sha256 {record.sha256}")].append(record)
    return list(units.values())


def _shuffled(units: list[Unit], seed: int) -> list[Unit]:
    """Order units by size, then by a hash of seed and first path: the same on every machine."""

    def key(unit: Unit) -> tuple[int, str]:
        first = min(r.path for r in unit).encode("utf-8", "surrogateescape")
        return -len(unit), sha256_parts(str(seed), first.hex())

    return sorted(units, key=key)


def _targets(
    pool: list[ImageRecord], shares: dict[SplitName, float]
) -> dict[SplitName, Counter[int]]:
    """Return how many images of each class each split is to get."""
    targets: dict[SplitName, Counter[int]] = {name: Counter() for name in shares}
    for label, n in count_labels(pool).items():
        for name, count in zip(shares, largest_remainder(n, list(shares.values())), strict=True):
            targets[name][label] = count
    return targets


def _neediest(
    unit: Unit,
    wanted: dict[SplitName, Counter[int]],
    left: Counter[int],
    seen: dict[SplitName, set[int]],
) -> SplitName:
    """Choose the split that lacks most images of the unit's classes.

    When a class has only as many units left as there are splits without it, those come first.
    """
    counts = count_labels(unit)

    def need(name: SplitName) -> tuple[int, int]:
        urgent = sum(
            label not in seen[name] and left[label] <= sum(label not in s for s in seen.values())
            for label in counts
        )
        return urgent, sum(n * wanted[name][label] for label, n in counts.items())

    return max(wanted, key=need)


def _check_units(
    units: list[Unit], classes: tuple[str, ...], shares: dict[SplitName, float]
) -> None:
    """Refuse classes with fewer units than there are splits to fill."""
    found = Counter(label for unit in units for label in count_labels(unit))
    short = [label for label in range(len(classes)) if found[label] < len(shares)]
    if len(shares) == 1 or not short:
        return
    images = count_labels(r for unit in units for r in unit)
    torn = any(images[label] != found[label] for label in short)
    what = "images apart (those of one group, or equal ones, stay together)" if torn else "image(s)"
    named = listed([f"{classes[label]!r} has {found[label]}" for label in short])
    raise DataError(
        f"Too few training images to split into {', '.join(shares)}: each class needs "
        f"{len(shares)} {what}, and {named}.\n"
        "Add images, or declare the splits yourself (data.train, data.val, data.test)."
    )


def _check_carved(
    seen: dict[SplitName, set[int]], pool: list[ImageRecord], classes: tuple[str, ...]
) -> None:
    labels = count_labels(pool).keys()
    lost = [
        f"{name} without class {classes[label]!r}"
        for name in seen
        for label in sorted(labels - seen[name])
    ]
    if lost:
        raise DataError(
            f"The groups of images leave {listed(lost)}.\n"
            "Use smaller groups, or declare the splits yourself."
        )


def _check_train(train: list[ImageRecord], classes: tuple[str, ...]) -> None:
    present = count_labels(train)
    lost = [repr(name) for label, name in enumerate(classes) if label not in present]
    if lost:
        raise DataError(
            f"No training image of class {listed(lost)}.\n"
            "Add some, or leave the class out of every split."
        )


def _check_labelled(splits: dict[SplitName, list[ImageRecord]]) -> None:
    bare = [name for name, records in splits.items() if records and not count_labels(records)]
    if bare:
        raise DataError(
            f"No image of {listed(bare)} has a label: nothing can be measured there.\n"
            "Add some that have."
        )
