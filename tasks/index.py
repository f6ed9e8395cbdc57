"""The index of a dataset: a CSV with one image file a row, in a fixed order."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tasks.artifacts import sha256_parts, write_atomic


class ImageRecord(NamedTuple):
    """One image file."""

    path: str  # relative to the dataset's root, with forward slashes
    label: int  # position in the dataset's classes
    split: str  # train, val, test, or "" where the source declares none
    group: str  # never torn between splits; "" for an image on its own
    sha256: str  # of the file's bytes


def write_index(path: Path, records: Iterable[ImageRecord]) -> None:
    """Write ``records`` to ``path`` atomically; raises ``ResourceError``."""
    text = io.StringIO()
    # quoted all: csv leaves a bare "\r" in a name unquoted, and then takes it for a line's end
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(ImageRecord._fields)
    writer.writerows(records)
    write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_index(path: Path) -> list[ImageRecord]:
    """Read what ``write_index`` wrote; raises ``OSError``."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    rows = csv.reader(io.StringIO(text, newline=""))
    next(rows)
    return [ImageRecord(p, int(label), split, group, sha) for p, label, split, group, sha in rows]


def digest_records(classes: Iterable[str], records: Iterable[ImageRecord]) -> str:
    """Digest classes and records, file contents included through their own digests."""
    rows = ("\0".join((r.path, str(r.label), r.split, r.group, r.sha256)) for r in records)
    encoded = (row.encode("utf-8", "surrogateescape").hex() for row in rows)
    return sha256_parts(*classes, "", *encoded)
