"""What of a whole data set is known by a few numbers an image: the same file, or group, twice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.config import DataConfig
from tasks.download.shards import Prefixes
from tasks.errors import ConfigError
from tasks.measures import Policy
from tasks.preprocess.findings import Finding, judged
from tasks.preprocess.splits import SPLITS
from tasks.splitvalues import SplitName


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

    Source of that figure: the birthday bound, n^2 / 2^65.
    """
    checks = config.checks
    return (
        _in_two(found, "exact_duplicates", checks.exact_duplicates),
        _two_labels(found, checks.conflicting_labels),
        _in_two(found, "group_leakage", checks.group_leakage),
    )


def _in_two(found: Sequence[Numbers], check: str, policy: Policy) -> Finding:
    groups = check == "group_leakage"
    values = {
        name: np.unique(_joined([n.groups if groups else n.prefixes for n in _of(found, name)]))
        for name in SPLITS
    }
    pairs = [np.intersect1d(values[a], values[b], True) for a, b in combinations(SPLITS, 2)]
    torn = np.unique(_joined(pairs))
    examples = [_places(found, value, groups) for value in torn[:20].tolist()]
    examples += [""] * (len(torn) - len(examples))  # counted, and not shown
    if groups:
        return judged("group_leakage", policy, "group", _text(torn, "group"), examples, ())
    return judged("exact_duplicates", policy, "image", _text(torn, "image"), examples, ())


def _text(torn: Prefixes, unit: str) -> str:
    return f"{len(torn):,} {unit}(s) are in two splits"


def _two_labels(found: Sequence[Numbers], policy: Policy) -> Finding:
    prefixes = _joined([n.prefixes for n in found])
    labels = np.concatenate([n.labels for n in found])
    order = np.lexsort((labels, prefixes))
    prefixes, labels = prefixes[order], labels[order]
    differs = (prefixes[1:] == prefixes[:-1]) & (labels[1:] != labels[:-1])
    torn = np.unique(prefixes[1:][differs])
    examples = [_places(found, value, False) for value in torn[:20].tolist()]
    examples += [""] * (len(torn) - len(examples))
    text = f"{len(torn):,} image(s) have two labels"
    return judged("conflicting_labels", policy, "image", text, examples, ())


def _places(found: Sequence[Numbers], value: int, groups: bool) -> str:
    """Say where a file, or a group, is: shards, and of a file its place among their images."""
    if groups:
        return " and ".join(n.shard for n in found if value in n.groups)
    places = ((n.shard, np.flatnonzero(n.prefixes == value)) for n in found)
    return " = ".join(f"image {at + 1} of {shard}" for shard, rows in places for at in rows[:2])


def _of(found: Sequence[Numbers], split: SplitName) -> list[Numbers]:
    return [numbers for numbers in found if numbers.split == split]


def _joined(arrays: Sequence[Prefixes]) -> Prefixes:
    return np.concatenate([np.empty(0, np.uint64), *arrays])
