"""Any table, quoted and encoded in any way: the words that were put in, or an error's."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.config import DataConfig
from tasks.download.manifest import read_manifest
from tasks.errors import GraftError

FILES = tuple(f"images/{i}.png" for i in range(4))
names = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12
)
labels = names.filter(str.strip)
cells = st.text(max_size=12) | st.sampled_from([*FILES, "", " ", "nan", "NA", "1", "1.0", "../x"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("manifests")
    for name in FILES:
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).touch()
    return made


@given(
    chosen=st.lists(labels, min_size=len(FILES), max_size=len(FILES)),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from([b"", codecs.BOM_UTF8]),
    columns=st.permutations(["path", "label"]),
)
def test_any_label_comes_back(folder: Path, chosen, quoting, end, mark, columns):
    # without quotes a bare \r ends a row, for csv's reader and for pandas'
    assume(quoting == csv.QUOTE_ALL or not any(set(label) & {"\r", "\n"} for label in chosen))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, quoting=quoting, lineterminator=end)
    writer.writeheader()
    for path, label in zip(FILES, chosen, strict=True):
        writer.writerow({"path": path, "label": label})
    table = folder / "table.csv"
    table.write_bytes(mark + text.getvalue().encode())
    listing = read_manifest(table, DataConfig(kind="manifest", path="x"), None)
    assert {image.path: image.label for image in listing.images} == {
        path: label.strip() for path, label in zip(FILES, chosen, strict=True)
    }


@given(chosen=st.lists(labels, min_size=len(FILES), max_size=len(FILES)))
def test_any_label_comes_back_from_parquet(folder: Path, chosen):
    table = folder / "table.parquet"
    pd.DataFrame({"path": FILES, "label": chosen}).to_parquet(table)
    listing = read_manifest(table, DataConfig(kind="manifest", path="x"), None)
    assert [image.label for image in sorted(listing.images)] == [label.strip() for label in chosen]


@given(
    rows=st.lists(st.lists(cells, max_size=5), max_size=5),
    header=st.lists(st.sampled_from(["path", "label", "split", "group", "x"]) | cells, max_size=5),
    encoding=st.sampled_from(["utf-8", "utf-16", "latin-1", "utf-7"]),
    delimiter=st.sampled_from(",;\t"),
    multi_label=st.booleans(),
)
def test_any_table_is_read_or_refused(folder: Path, rows, header, encoding, delimiter, multi_label):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows(rows)
    table = folder / "table.csv"
    table.write_bytes(text.getvalue().encode(encoding, "replace"))
    read_or_refused(table, multi_label)


@given(content=st.binary(max_size=300), suffix=st.sampled_from([".csv", ".parquet"]))
def test_any_bytes_are_read_or_refused(folder: Path, content: bytes, suffix: str):
    table = folder / f"table{suffix}"
    table.write_bytes(content)
    read_or_refused(table, multi_label=False)


def names_it(error: GraftError, table: Path) -> None:
    assert error.exit_code in (2, 3)
    assert table.name in str(error) or "data." in str(error)


def read_or_refused(table: Path, multi_label: bool) -> None:
    config = DataConfig(kind="manifest", path="x", multi_label=multi_label)
    try:
        listing = read_manifest(table, config, None)
    except GraftError as error:
        names_it(error, table)
        return
    assert listing.images
    assert {image.path for image in listing.images} <= set(FILES)
    assert len({image.path for image in listing.images}) == len(listing.images)
