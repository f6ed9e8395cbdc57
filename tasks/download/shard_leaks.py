"""What of a whole data set is known by a few numbers an image: the same file, or group, twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.config import DataConfig
from tasks.download.shards import Prefixes
from tasks.errors import ConfigError
from tasks.measures import Policy
from tasks.preprocess.findings import Check, Finding, judged
from tasks.preprocess.splits import SPLITS
from tasks.splitvalues import SplitName
from tasks.words import SHOWN


class Numbers(NamedTuple):
    """Of one shard's images, in order: eight bytes of each digest, and each label's position."""

    shard: str
    split: SplitName
    prefixes: Prefixes
    labels: npt.NDArray[np.uint32]
    groups: Prefixes  # of the groups that it has, each once


def refuse_drop(config: DataConfig) -> None:
    """Raise ``ConfigError`` where images of shards would have to be left out."""
    for name in ("exact_duplicates", "conflicting_labels", "group_leakage"):
        if getattr(config.checks, name) == "drop":
            raise ConfigError(
                f"data.checks.{name}=drop cannot leave images out of shards that are there.\n"
                "Set fail or warn, or make the shards anew."
            )


def find_leaks(found: Sequence[Numbers], config: DataConfig) -> tuple[Finding, ...]:
    """Return what the checks of files find; two different files of a million look alike 1 in 37e6.

    Source of that figure: the birthday bound, n^2 / 2^65. Memory holds one more copy of all
    numbers while they are sorted, and afterwards only those that come more than once.
    """
    images = _repeated(found, [numbers.prefixes for numbers in found])
    groups = _repeated(found, [numbers.groups for numbers in found])
    checks = config.checks
    return (
        _finding("exact_duplicates", checks.exact_duplicates, images, images.splits),
        _finding("conflicting_labels", checks.conflicting_labels, images, images.labels),
        _finding("group_leakage", checks.group_leakage, groups, groups.splits),
    )


class _Repeated(NamedTuple):
    """Numbers that come more than once, a row each time: where, and under which label."""

    values: Prefixes
    splits: npt.NDArray[np.uint32]
    labels: npt.NDArray[np.uint32]  # of images alone
    shards: npt.NDArray[np.uint32]  # positions in ``names``
    places: npt.NDArray[np.uint32]  # in the shard, from 0
    names: list[str]


def _repeated(found: Sequence[Numbers], arrays: Sequence[Prefixes]) -> _Repeated:
    every = np.concatenate(arrays)
    every.sort()
    repeated = np.unique(every[1:][every[1:] == every[:-1]])
    del every
    columns: list[list[npt.NDArray[np.uint32]]] = [[], [], [], []]
    values = []
    for shard, (numbers, held) in enumerate(zip(found, arrays, strict=True)):
        at = np.flatnonzero(_among(held, repeated))
        named = numbers.labels[at] if held is numbers.prefixes else np.zeros_like(at)
        same = (np.full_like(at, number) for number in (SPLITS.index(numbers.split), shard))
        for column, part in zip(columns, (at, named, *same), strict=True):
            column.append(part.astype(np.uint32))
        values.append(held[at])
    places, labels, splits, shards = (np.concatenate(column) for column in columns)
    names = [numbers.shard for numbers in found]
    return _Repeated(np.concatenate(values), splits, labels, shards, places, names)


def _among(held: Prefixes, known: Prefixes) -> npt.NDArray[np.bool_]:
    """Tell which of ``held`` are in ``known``, which is sorted and may be of millions.

    Not np.isin: it would sort all that is known anew for every shard.
    """
    if not len(known):
        return np.zeros(len(held), bool)
    at = np.minimum(np.searchsorted(known, held), len(known) - 1)
    return np.asarray(known[at] == held)


def _finding(
    check: Check, policy: Policy, rows: _Repeated, sides: npt.NDArray[np.uint32]
) -> Finding:
    """Judge the numbers that come on two sides: splits, or labels."""
    order = np.lexsort((sides, rows.values))
    values, sorted_sides = rows.values[order], sides[order]
    differ = (values[1:] == values[:-1]) & (sorted_sides[1:] != sorted_sides[:-1])
    torn = np.unique(values[1:][differ])
    unit = "group" if check == "group_leakage" else "image"
    between = " and " if unit == "group" else " = "
    examples = [between.join(_places(rows, v, sides, unit)) for v in torn[:SHOWN].tolist()]
    examples += [""] * (len(torn) - len(examples))  # counted, and not shown
    where = "have two labels" if check == "conflicting_labels" else "are in two splits"
    return judged(check, policy, unit, f"{len(torn):,} {unit}(s) {where}", examples, ())


def _places(rows: _Repeated, value: int, sides: npt.NDArray[np.uint32], unit: str) -> list[str]:
    """Say where a group, or a file, is first on each side; of a file its place in the shard."""
    at = np.flatnonzero(rows.values == value)
    at = at[np.unique(sides[at], return_index=True)[1]]
    shards = [rows.names[shard] for shard in rows.shards[at]]
    if unit == "group":
        return shards
    return [f"image {n + 1} of {shard}" for n, shard in zip(rows.places[at], shards, strict=True)]
