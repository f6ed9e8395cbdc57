"""Classes with too few training images to learn from, and data without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tasks.config import DataConfig
from tasks.index import ImageRecord, count_labels
from tasks.preprocess.findings import Finding, Splits
from tasks.preprocess.splits import SPLITS
from tasks.values import SplitName
from tasks.words import SHOWN


class TinyClass(NamedTuple):
    """A class with few training images."""

    label: int
    name: str
    train: int  # images


class Thinned(NamedTuple):
    """Data without its tiny classes: labels are positions in ``classes``."""

    splits: dict[SplitName, list[ImageRecord]]
    classes: tuple[str, ...]
    lost: tuple[TinyClass, ...]
    gone: frozenset[str]  # paths of the images that went with them


def tiny_classes(splits: Splits, classes: tuple[str, ...], least: int) -> tuple[TinyClass, ...]:
    """Return the classes that have fewer than ``least`` training images."""
    return tiny_counts(count_labels(splits["train"]), classes, least)


def tiny_counts(
    counts: Mapping[int, int], classes: tuple[str, ...], least: int
) -> tuple[TinyClass, ...]:
    """Do the same where only the training images of each class are known, by its label."""
    return tuple(
        TinyClass(label, name, counts[label])
        for label, name in enumerate(classes)
        if counts[label] < least
    )


def without_tiny(splits: Splits, classes: tuple[str, ...], least: int) -> Thinned:
    """Leave out the tiny classes, their images and their names, and number the others anew.

    An image of several labels stays, without the label: that it shows something else is no reason
    to lose it, and no other class is in it for that.
    """
    lost = tiny_classes(splits, classes, least)
    labels = {each.label for each in lost}
    number = {old: new for new, old in enumerate(_others(len(classes), labels))}
    kept = {name: list(_renumbered(splits[name], number)) for name in SPLITS}
    there = {record.path for name in SPLITS for record in splits[name]}
    gone = there - {record.path for records in kept.values() for record in records}
    names = tuple(classes[old] for old in number)
    return Thinned(kept, names, lost, frozenset(gone))


def _others(classes: int, labels: set[int]) -> list[int]:
    return [label for label in range(classes) if label not in labels]


def _renumbered(records: Iterable[ImageRecord], number: dict[int, int]) -> Iterable[ImageRecord]:
    for record in records:
        if isinstance(record.label, tuple):
            labels = tuple(number[label] for label in record.label if label in number)
            yield record._replace(label=labels)
        elif record.label in number:
            yield record._replace(label=number[record.label])


def tiny_finding(
    found: Sequence[TinyClass], gone: Iterable[str], config: DataConfig, least: int
) -> Finding:
    """Return what is said of the tiny classes; under ``warn`` a line each of a few."""
    stay = ", whose images stay without that label" if config.multi_label else ""
    return Finding(
        "tiny_classes",
        config.checks.tiny_classes,
        found=len(found),
        unit="class",
        text=f"{len(found):,} class(es) have fewer than {least} training images"
        + (stay if config.checks.tiny_classes == "drop" else ""),
        examples=tuple(f"{each.name!r} has {each.train:,}" for each in found[:SHOWN]),
        gone=frozenset(gone),
        lines=tuple(
            f"Class {each.name!r} has only {each.train} training image(s)." for each in found
        )
        if len(found) <= SHOWN
        else (),  # of thousands of classes one line is told, with the first of them
    )
