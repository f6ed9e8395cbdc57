"""The index: every name that a file system allows comes back, and the digest sees every field."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from tasks.errors import ResourceError
from tasks.index import ImageRecord, digest_records, read_index, write_index

NAMES = [
    "plain.png",
    "carriage\rreturn.png",
    "line\nfeed.png",
    "both\r\n.png",
    'quo"te.png',
    '"',
    "com,ma.png",
    " space .png",
    "ä ö 例.png",
    "tab\t\x1b\x85\u2028.png",
    os.fsdecode(b"not utf-8 \xff\xfe.png"),
]


def record(path: str, group: str = "") -> ImageRecord:
    return ImageRecord(path, 1, "train", group, "0" * 64)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back(name: str, tmp_path: Path):
    records = [record("before"), record(name), record("a", group=name), record("after")]
    write_index(tmp_path / "index.csv", records)
    assert read_index(tmp_path / "index.csv") == records


def test_it_is_a_csv_with_a_header(tmp_path: Path):
    records = [record(name) for name in NAMES[:-1]]
    write_index(tmp_path / "index.csv", records)
    with (tmp_path / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == NAMES[:-1]
    assert rows[0] == {key: str(value) for key, value in records[0]._asdict().items()}


def test_an_empty_one_comes_back(tmp_path: Path):
    write_index(tmp_path / "index.csv", [])
    assert read_index(tmp_path / "index.csv") == []


def test_writing_under_a_file_is_a_resource_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError):
        write_index(tmp_path / "file" / "index.csv", [record("a")])


def test_digest_sees_every_field_and_the_classes():
    base = record("a", group="g")
    changed = [base._replace(**{field: 2 if field == "label" else "x"}) for field in base._fields]
    digests = {digest_records(("a", "b"), [each]) for each in (base, *changed)}
    digests |= {digest_records(("a", "c"), [base]), digest_records(("a",), [base])}
    digests |= {digest_records(("a", "b"), []), digest_records(("a", "b"), [base, base])}
    assert len(digests) == len(base._fields) + 5
