"""The index: every name that a file system allows comes back, and the digest sees every field."""

from __future__ import annotations

import csv
import os
import tracemalloc
from pathlib import Path

import pytest

from tasks.artifacts import sha256_parts
from tasks.errors import ResourceError
from tasks.index import ImageRecord, count_labels, digest_records, read_index, write_index

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
    fields = records[0]._asdict()
    assert fields.pop("slices") == ()
    assert rows[0] == {key: str(value) for key, value in fields.items()}


def test_an_empty_one_comes_back(tmp_path: Path):
    write_index(tmp_path / "index.csv", [])
    assert read_index(tmp_path / "index.csv") == []


def test_writing_under_a_file_is_a_resource_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError):
        write_index(tmp_path / "file" / "index.csv", [record("a")])


def test_digest_sees_every_field_and_the_classes():
    base = record("a", group="g")
    others = {"label": 2, "slices": ("x",)}
    changed = [base._replace(**{field: others.get(field, "x")}) for field in base._fields]
    digests = {digest_records(("a", "b"), [each]) for each in (base, *changed)}
    digests |= {digest_records(("a", "c"), [base]), digest_records(("a",), [base])}
    digests |= {digest_records(("a", "b"), []), digest_records(("a", "b"), [base, base])}
    assert len(digests) == len(base._fields) + 5


def labelled(*labels: int | tuple[int, ...]) -> list[ImageRecord]:
    return [record(str(i))._replace(label=label) for i, label in enumerate(labels)]


def test_labels_come_back_as_one_or_several(tmp_path: Path):
    records = labelled(3, (), (3,), (0, 12))
    write_index(tmp_path / "index.csv", records)
    assert read_index(tmp_path / "index.csv") == records
    assert [r.labels for r in records] == [(3,), (), (3,), (0, 12)]
    assert count_labels(records) == {3: 2, 0: 1, 12: 1}


def test_one_label_is_written_and_digested_as_before_there_were_several(tmp_path: Path):
    write_index(tmp_path / "index.csv", [record("a", group="g")])
    assert (tmp_path / "index.csv").read_text() == (
        f'"path","label","split","group","sha256"\n"a","1","train","g","{"0" * 64}"\n'
    )
    row = "\0".join(("a", "1", "train", "g", "0" * 64)).encode().hex()
    assert digest_records(("x", "y"), [record("a", group="g")]) == sha256_parts("x", "y", "", row)


def test_digest_tells_one_of_several_from_one_alone():
    cases = [labelled(1), labelled((1,)), labelled(()), labelled((0, 1)), labelled((0,), (1,))]
    assert len({digest_records(("a", "b"), case) for case in cases}) == len(cases)


@pytest.mark.parametrize("name", [*NAMES[:-1], ""])
def test_values_of_slice_columns_come_back(name: str, tmp_path: Path):
    records = [record("a")._replace(slices=(name, "x")), record("b")._replace(slices=("", name))]
    write_index(tmp_path / "index.csv", records)
    assert read_index(tmp_path / "index.csv") == records
    assert len(set(records)) == 2


def test_values_of_slice_columns_have_columns_of_their_own(tmp_path: Path):
    write_index(tmp_path / "index.csv", [record("a")._replace(slices=("north", "f"))])
    assert (tmp_path / "index.csv").read_text() == (
        '"path","label","split","group","sha256","slice_0","slice_1"\n'
        f'"a","1","train","","{"0" * 64}","north","f"\n'
    )


def test_digest_sees_the_values_of_slice_columns_and_their_order():
    slices = [(), ("",), ("a", "b"), ("b", "a"), ("ab",), ("a", "b", "")]
    cases = [[record("a")._replace(slices=values)] for values in slices]
    assert len({digest_records(("a", "b"), case) for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("does", "most"),
    [
        ("writes", 170),  # bytes a record, over what is kept; a line of the file is 115
        ("reads", 50),
        ("digests", 50),
    ],
)
def test_no_more_than_one_copy_is_held(does: str, most: int, tmp_path: Path):
    n = 5_000
    records = [
        ImageRecord(f"train/class-{i:05d}/{i:08d}.jpg", i, "train", "", f"{i:064x}")
        for i in range(n)
    ]
    path = tmp_path / "index.csv"
    write_index(path, records)
    tracemalloc.start()
    try:
        work = {
            "writes": lambda: write_index(path, records),
            "reads": lambda: read_index(path),
            "digests": lambda: digest_records(["a"], records),
        }[does]
        kept = work()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (peak - held) / n < most
    assert kept in (None, records, digest_records(["a"], records))
