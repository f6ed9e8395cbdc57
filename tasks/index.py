"""The index of a dataset: a CSV with one image file a row, in a fixed order."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tasks.artifacts import sha256_each, write_atomic


class ImageRecord(NamedTuple):
    """One image file, with one label, or in a multi-label dataset with any number of them."""

    path: str  # relative to the dataset's root, with forward slashes
    label: int | tuple[int, ...]  # position in the dataset's classes; multi-label: all, ascending
    split: str  # train, val, test, or "" where the source declares none
    group: str  # never torn between splits; "" for an image on its own
    sha256: str  # of the file's bytes
    slices: tuple[str, ...] = ()  # values of data.slice_columns, in their order

    @property
    def labels(self) -> tuple[int, ...]:
        """Return the label, or all of them, as a tuple."""
        return self.label if isinstance(self.label, tuple) else (self.label,)


def write_index(path: Path, records: Iterable[ImageRecord]) -> None:
    """Write ``records`` to ``path`` atomically; raises ``ResourceError``.

    A label is a number; the labels of a multi-label record are numbers that each end in ``;``.
    Values of slice columns follow, one a column, where there are any.
    """
    first = next(coming := iter(records), None)
    slices = len(first.slices) if first else 0
    content = io.BytesIO()  # one copy of it all: there may be millions of records
    text = io.TextIOWrapper(content, "utf-8", "surrogateescape", newline="", write_through=True)
    # quoted all: csv leaves a bare "\r" in a name unquoted, and then takes it for a line's end
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow((*ImageRecord._fields[:-1], *(f"slice_{number}" for number in range(slices))))
    writer.writerows(_texts(record) for record in chain([first] if first else [], coming))
    write_atomic(path, content.getvalue())


def read_index(path: Path) -> list[ImageRecord]:
    """Read what ``write_index`` wrote; raises ``OSError``."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
        rows = csv.reader(text)
        next(rows)
        return [
            ImageRecord(path, _label(label), sys.intern(split), group, sha256, tuple(slices))
            for path, label, split, group, sha256, *slices in rows
        ]


def count_labels(records: Iterable[ImageRecord]) -> Counter[int]:
    """Count the images of each class."""
    return Counter(label for record in records for label in record.labels)


def digest_records(classes: Iterable[str], records: Iterable[ImageRecord]) -> str:
    """Digest classes and records, file contents included through their own digests."""
    rows = ("\0".join(_texts(record)) for record in records)
    encoded = (row.encode("utf-8", "surrogateescape").hex() for row in rows)
    return sha256_each(chain(classes, [""], encoded))


def _texts(record: ImageRecord) -> tuple[str, ...]:
    path, _, split, group, sha256, slices = record
    return path, _label_text(record), split, group, sha256, *slices


def _label_text(record: ImageRecord) -> str:
    # "3" and "3;" are told apart: one of three classes is not the same as that one alone of three
    if isinstance(record.label, tuple):
        return "".join(f"{label};" for label in record.label)
    return str(record.label)


def _label(text: str) -> int | tuple[int, ...]:
    if text and not text.endswith(";"):
        return int(text)
    return tuple(int(label) for label in text.split(";")[:-1])
