"""The same picture on both sides: in two splits, or under two labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import ImageRecord
from tasks.values import SplitName
from tasks.words import listed, printable


def check_leaks(
    splits: Mapping[SplitName, list[ImageRecord]], classes: tuple[str, ...], config: DataConfig
) -> tuple[str, ...]:
    """Look for images (by digest) or groups in two splits, and for images with two labels.

    Under ``data.checks.exact_duplicates=warn`` a warning that lists the first of them is returned;
    under ``fail`` any raises a ``DataError`` that does.
    """
    found = [*_torn_images(splits), *_torn_groups(splits), *_two_labels(splits, classes)]
    if not found:
        return ()
    text = listed(found, between="; ")
    if config.checks.exact_duplicates == "fail":
        raise DataError(
            f"{len(found):,} leak(s): an image or group in two splits, or an image with two labels "
            f"(data.checks.exact_duplicates=warn goes on nevertheless).\n{text}"
        )
    return (f"{len(found):,} leak(s): {text}",)


def _records(
    splits: Mapping[SplitName, list[ImageRecord]],
) -> Iterator[tuple[SplitName, ImageRecord]]:
    for name, records in splits.items():
        for record in records:
            yield name, record


def _torn_images(splits: Mapping[SplitName, list[ImageRecord]]) -> Iterator[str]:
    places: dict[str, dict[SplitName, str]] = defaultdict(dict)
    for name, record in _records(splits):
        places[record.sha256].setdefault(name, record.path)
    for held in places.values():
        if len(held) > 1:
            yield "same image: " + " = ".join(
                f"{printable(path)} ({name})" for name, path in held.items()
            )


def _torn_groups(splits: Mapping[SplitName, list[ImageRecord]]) -> Iterator[str]:
    places: dict[str, dict[SplitName, str]] = defaultdict(dict)
    for name, record in _records(splits):
        if record.group:
            places[record.group].setdefault(name, record.path)
    for group, held in places.items():
        if len(held) > 1:
            where = " and ".join(f"{printable(path)} ({name})" for name, path in held.items())
            yield f"group '{printable(group)}': {where}"


def _two_labels(
    splits: Mapping[SplitName, list[ImageRecord]], classes: tuple[str, ...]
) -> Iterator[str]:
    places: dict[str, dict[tuple[int, ...], str]] = defaultdict(dict)
    for _, record in _records(splits):
        places[record.sha256].setdefault(record.labels, record.path)
    for held in places.values():
        if len(held) > 1:
            yield "two labels: " + " = ".join(
                f"{printable(path)} ({listed([repr(classes[label]) for label in labels])})"
                for labels, path in held.items()
            )
