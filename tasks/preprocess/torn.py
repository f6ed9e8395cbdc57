"""The same file on both sides: in two splits, under two labels, or its group torn apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from tasks.index import ImageRecord
from tasks.measures import Policy
from tasks.preprocess.findings import Finding, Splits, judged
from tasks.preprocess.splits import SPLITS
from tasks.values import SplitName
from tasks.words import listed, printable

Side = TypeVar("Side", bound=Hashable)
Placed = tuple[Side, ImageRecord]  # a record and the split, or label, it is in


def exact_duplicates(splits: Splits, policy: Policy) -> Finding:
    """Find files, by digest, that two splits hold.

    Left out under ``drop`` are all copies but those in the last split of train, val and test that
    has one: an image is never taken from the test.
    """
    torn = _torn(_placed(splits), lambda record: record.sha256)
    examples = [" = ".join(_first(held)) for held in torn.values()]
    text = f"{len(torn):,} image(s) are in two splits"
    return judged("exact_duplicates", policy, "image", text, examples, _copies(torn.values()))


def group_leakage(splits: Splits, policy: Policy) -> Finding:
    """Find groups that two splits hold; ``drop`` leaves out as of exact duplicates."""
    torn = _torn(_placed(splits), lambda record: record.group)
    examples = [
        f"group '{printable(group)}': {' and '.join(_first(held))}" for group, held in torn.items()
    ]
    text = f"{len(torn):,} group(s) are in two splits"
    return judged("group_leakage", policy, "group", text, examples, _copies(torn.values()))


def conflicting_labels(
    records: Iterable[ImageRecord], classes: tuple[str, ...], policy: Policy
) -> Finding:
    """Find files, by digest, under two labels, or two sets of them; all go under ``drop``."""
    torn = _torn([(record.labels, record) for record in records], lambda record: record.sha256)
    examples = [
        " = ".join(
            f"{printable(each[0].path)} ({listed([repr(classes[label]) for label in labels])})"
            for labels, each in held.items()
        )
        for held in torn.values()
    ]
    text = f"{len(torn):,} image(s) have two labels"
    gone = [r.path for held in torn.values() for each in held.values() for r in each]
    return judged("conflicting_labels", policy, "image", text, examples, gone)


def _placed(splits: Splits) -> list[Placed[SplitName]]:
    return [(name, record) for name in SPLITS for record in splits[name]]


def _torn(
    placed: list[Placed[Side]], key: Callable[[ImageRecord], str]
) -> dict[str, dict[Side, list[ImageRecord]]]:
    """Return the records of each key that is on two sides, by side; "" is no key."""
    first: dict[str, Side] = {}
    torn = {key(r) for side, r in placed if key(r) and first.setdefault(key(r), side) != side}
    found: dict[str, dict[Side, list[ImageRecord]]] = defaultdict(lambda: defaultdict(list))
    for side, record in placed:
        if key(record) in torn:
            found[key(record)][side].append(record)
    return found


def _first(held: dict[SplitName, list[ImageRecord]]) -> list[str]:
    return [f"{printable(records[0].path)} ({name})" for name, records in held.items()]


def _copies(torn: Iterable[dict[SplitName, list[ImageRecord]]]) -> list[str]:
    return [
        record.path
        for held in torn
        for name in sorted(held, key=SPLITS.index)[:-1]
        for record in held[name]
    ]
