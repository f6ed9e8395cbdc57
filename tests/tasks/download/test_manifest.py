"""Manifests: tables written by pandas and pyarrow, read back row for row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tasks.config import DataConfig
from tasks.download.source import download
from tasks.errors import ConfigError, DataError
from tasks.index import ImageRecord, read_index
from tasks.values import RawDataset

Tree = Callable[..., Path]
IMAGES = [f"images/{i}.png" for i in range(6)]


def read(path: Path, cache: Path, **values: object) -> tuple[RawDataset, list[ImageRecord]]:
    config = DataConfig.model_validate({"kind": "manifest", "path": str(path), **values})
    raw = download(config, cache)
    return raw, read_index(raw.index)


def write(path: Path, /, **columns: list[object]) -> Path:
    table = pd.DataFrame(columns)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_come_back(suffix: str, tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(
        folder / f"labels.{suffix}",
        file=IMAGES,
        species=["bee", "ant", "NA", "bee", "ant", "NA"],
        part=["Train", "Train", "Train", "VAL", "test", "test"],
        nest=["n1", "n1", None, "n2", None, "n3"],
    )
    columns = {"path_column": "file", "label_column": "species"}
    columns |= {"split_column": "part", "group_column": "nest"}
    raw, records = read(manifest, tmp_path / "cache", **columns)
    assert raw.root == folder
    assert raw.classes == ("NA", "ant", "bee")
    assert raw.counts == {"train": 3, "val": 1, "test": 2}
    assert [record[:4] for record in records] == [
        ("images/0.png", 2, "train", "n1"),
        ("images/1.png", 1, "train", "n1"),
        ("images/2.png", 0, "train", ""),
        ("images/3.png", 2, "val", "n2"),
        ("images/4.png", 1, "test", ""),
        ("images/5.png", 0, "test", "n3"),
    ]


@pytest.mark.parametrize(
    "labels", [[10, 2, 10, 2, 10, 2], [10.0, 2.0] * 3, ["10", "2"] * 3, [" 10", "2 "] * 3]
)
def test_numbers_are_names_and_sort_as_such(labels: list[object], tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(folder / "labels.parquet", path=IMAGES, label=labels)
    assert read(manifest, tmp_path / "cache")[0].classes == ("10", "2")


def test_column_that_was_an_index_is_found(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    table = pd.DataFrame({"path": IMAGES, "label": ["a", "b"] * 3}).set_index("path")
    table.astype("category").to_parquet(folder / "labels.parquet")
    assert len(read(folder / "labels.parquet", tmp_path / "cache")[1]) == 6


def test_windows_byte_order_mark_is_no_part_of_the_header(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    rows = "".join(f"{image},{'ab'[i % 2]}\r\n" for i, image in enumerate(IMAGES))
    (folder / "labels.csv").write_bytes(b"\xef\xbb\xbf" + f"path,label\r\n{rows}".encode())
    assert read(folder / "labels.csv", tmp_path / "cache")[0].classes == ("a", "b")


def test_absolute_paths_and_rows_given_twice(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    outside = tree("7.png", "8.png", root="outside")
    paths = [str(folder / IMAGES[0]), IMAGES[0], "images/../images/1.png", "../outside/7.png"]
    manifest = write(
        folder / "labels.csv",
        path=[*paths, str(outside / "8.png")],
        label=["a", "a", "a", "b", "b"],
    )
    _, records = read(manifest, tmp_path / "cache")
    assert sorted(record.path for record in records) == sorted(
        [IMAGES[0], IMAGES[1], str(outside / "7.png"), str(outside / "8.png")]
    )


def test_split_values_can_be_named(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(
        folder / "labels.csv", path=IMAGES, label=["a", "b"] * 3, fold=[0, 0, 0, 0, 1, 1]
    )
    raw, _ = read(manifest, tmp_path / "cache", split_column="fold", train="0", test="1")
    assert raw.counts == {"train": 4, "test": 2}


@pytest.mark.parametrize("wrapper", ["", "wrapper/"])
@pytest.mark.parametrize("named", [True, False])
def test_manifest_in_an_archive(
    wrapper: str, named: bool, tree: Tree, tmp_path: Path, pack, snapshot
):
    folder = tree(*IMAGES)
    write(folder / "labels.csv", path=IMAGES, label=["a", "b"] * 3)
    members = [(wrapper + name, content) for name, content in snapshot(folder).items()]
    archive = pack(tmp_path / "data.zip", members)
    values = {"manifest": f"{wrapper}labels.csv"} if named else {}
    raw, records = read(archive, tmp_path / "cache", **values)
    assert [record.path for record in records] == [wrapper + image for image in IMAGES]
    assert all((raw.root / record.path).is_file() for record in records)
    assert read(archive, tmp_path / "cache", **values)[0] == raw


def test_manifest_in_a_folder(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    write(folder / "one.csv", path=IMAGES, label=["a", "b"] * 3)
    assert len(read(folder, tmp_path / "cache")[1]) == 6
    write(folder / "two.parquet", path=IMAGES[:4], label=["a", "b"] * 2)
    with pytest.raises(DataError, match=r"has: one.csv, two.parquet"):
        read(folder, tmp_path / "cache")
    assert len(read(folder, tmp_path / "cache", manifest="two.parquet")[1]) == 4


GOOD = "path,label\n" + "".join(f"{p},{'ab'[i % 2]}\n" for i, p in enumerate(IMAGES))
BAD: dict[str, tuple[bytes, dict[str, str], str]] = {
    "empty file": (b"", {}, "cannot be read"),
    "header alone": (b"path,label\n", {}, "has no rows"),
    "not text": (bytes(range(128, 256)), {}, "cannot be read"),
    "too many cells": (b"path,label\na.png,x,y\n", {}, "cannot be read"),
    "no such column": (
        GOOD.replace("label", "lable").encode(),
        {},
        "no column 'label'; it has: path, lable. Did you mean 'lable'",
    ),
    "no label": (GOOD.encode() + b"images/1.png,\n", {}, "no label in row 7"),
    "no path": (GOOD.encode() + b",a\n", {}, "no path in row 7"),
    "unknown split": (
        GOOD.replace("label", "label,s")
        .replace("a\n", "a,train\n")
        .replace("b\n", "b,dev\n")
        .encode(),
        {"split_column": "s"},
        "unknown meaning: dev",
    ),
    "no such split": (
        GOOD.replace("label", "label,s")
        .replace("a\n", "a,train\n")
        .replace("b\n", "b,train\n")
        .encode(),
        {"split_column": "s", "test": "tset"},
        "has no test=tset",
    ),
    "two labels": (GOOD.encode() + b"images/1.png,a\n", {}, "two labels.*images/1.png"),
    "one class": (GOOD.replace(",b", ",a").encode(), {}, "one class, a"),
    "class of one image": (GOOD.replace("5.png,b", "5.png,c").encode(), {}, "only of class c"),
    "class not in train": (
        GOOD.replace("label", "label,s")
        .replace("a\n", "a,train\n")
        .replace("b\n", "b,test\n")
        .encode(),
        {"split_column": "s"},
        "no training image of class b",
    ),
    "paths that are no files": (
        GOOD.encode() + b"".join(b"gone/%d.png,a\n" % i for i in range(25)),
        {},
        r"25 of 31 paths .* name no file: gone/0.png, .*gone/19.png and 5 more",
    ),
    "path is a folder": (GOOD.encode() + b"images,a\n", {}, "name no file: images"),
    "path of absurd length": (GOOD.encode() + b"x" * 5000 + b",a\n", {}, "name no file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_manifest_is_refused_and_leaves_the_cache(
    name: str, tree: Tree, tmp_path: Path, snapshot
):
    content, values, words = BAD[name]
    folder = tree(*IMAGES)
    (folder / "labels.csv").write_bytes(content)
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        read(folder / "labels.csv", tmp_path / "cache", **values)
    assert str(caught.value).count("\n") <= 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "path", ["https://example.org/1.png", "http://169.254.169.254/latest", "file:///etc/hostname"]
)
def test_an_address_is_no_file(path: str, tree: Tree, tmp_path: Path, monkeypatch):
    """Nothing is asked for: what a manifest lists is a path, whatever it looks like."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("somebody was asked"))
    folder = tree(*IMAGES)
    manifest = write(folder / "m.csv", path=[*IMAGES, path], label=["a", "b"] * 3 + ["a"])
    with pytest.raises(DataError, match=r"1 of 7 paths .* name no file"):
        read(manifest, tmp_path / "cache")


@pytest.mark.parametrize("path", ["../../out.png", "/etc/hostname"])
def test_archive_may_not_name_files_outside(path: str, tmp_path: Path, pack, png, tree: Tree):
    tree("out.png", root="cache/archives")
    table = f"path,label\n{path},a\n0.png,b\n".encode()
    archive = pack(tmp_path / "data.tar", [("labels.csv", table), ("0.png", png(0))])
    with pytest.raises(DataError, match=f"lead out of the archive: {path}"):
        read(archive, tmp_path / "cache")


def test_named_manifest_that_is_not_there(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    write(tmp_path / "outside.csv", path=IMAGES, label=["a", "b"] * 3)
    for name in ("labels.csv", "../outside.csv"):
        with pytest.raises(DataError, match="has no manifest"):
            read(folder, tmp_path / "cache", manifest=name)


def test_damaged_parquet_and_odd_cells(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    (folder / "labels.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="cannot be read"):
        read(folder / "labels.parquet", tmp_path / "cache")
    write(folder / "labels.parquet", path=IMAGES, label=[[1, 2]] * 6)
    with pytest.raises(DataError, match="must be text or numbers"):
        read(folder / "labels.parquet", tmp_path / "cache")


def test_splits_without_their_column_are_refused(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(folder / "labels.csv", path=IMAGES, label=["a", "b"] * 3)
    with pytest.raises(ConfigError, match=r"data\.split_column"):
        read(manifest, tmp_path / "cache", test="test")


def test_columns_of_the_usual_names_are_used_unless_others_are_named(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(
        folder / "labels.csv",
        path=IMAGES,
        label=["a", "b"] * 3,
        split=["train"] * 4 + ["test"] * 2,
        group=["g1", "g1", "g2", "", "g3", "g3"],
        fold=["test"] * 2 + ["train"] * 4,
    )
    raw, records = read(manifest, tmp_path / "cache")
    assert raw.counts == {"train": 4, "test": 2}
    assert [record.group for record in records] == ["g1", "g1", "g2", "", "g3", "g3"]
    named = read(manifest, tmp_path / "cache", split_column="fold", group_column="label")
    assert named[0].counts == {"train": 4, "test": 2}
    assert [record.split for record in named[1]] == ["test"] * 2 + ["train"] * 4
    assert [record.group for record in named[1]] == ["a", "b"] * 3
    assert read(manifest, tmp_path / "cache", val="test")[0].counts == {"train": 4, "val": 2}


def test_a_column_of_labels_is_no_group_whatever_its_name(tree: Tree, tmp_path: Path):
    manifest = write(tree(*IMAGES) / "labels.csv", path=IMAGES, group=["a", "b"] * 3)
    raw, records = read(manifest, tmp_path / "cache", label_column="group")
    assert raw.classes == ("a", "b")
    assert {record.group for record in records} == {""}


def test_manifest_in_an_archive_in_a_cache_behind_a_link(
    tree: Tree, tmp_path: Path, pack, snapshot
):
    folder = tree(*IMAGES)
    write(folder / "labels.csv", path=IMAGES, label=["a", "b"] * 3)
    archive = pack(tmp_path / "data.zip", snapshot(folder).items())
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for values in ({}, {"manifest": "labels.csv"}):
        assert len(read(archive, tmp_path / "link", **values)[1]) == 6


SEVERAL: list[object] = ["sun|beach", "beach | sun| ", None, "sun", "dog|dog", " "]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("separator", ["|", ", ", ";"])
def test_an_image_may_have_several_labels_or_none(
    suffix: str, separator: str, tree: Tree, tmp_path: Path
):
    folder = tree(*IMAGES)
    cells = [cell and str(cell).replace("|", separator) for cell in SEVERAL]
    manifest = write(folder / f"labels.{suffix}", path=IMAGES, label=cells)
    raw, records = read(manifest, tmp_path / "cache", multi_label=True, label_separator=separator)
    assert raw.multi_label
    assert raw.classes == ("beach", "dog", "sun")
    assert [r.label for r in records] == [(0, 2), (0, 2), (), (2,), (1,), ()]
    assert RawDataset.model_validate_json(raw.model_dump_json()) == raw


def test_numbers_are_labels_too(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(
        folder / "labels.parquet", path=IMAGES, label=[10.0, None, 2.0, 2.0, 10.0, 2.0]
    )
    raw, records = read(manifest, tmp_path / "cache", multi_label=True)
    assert raw.classes == ("10", "2")
    assert [r.label for r in records] == [(0,), (), (1,), (1,), (0,), (1,)]


def test_the_same_cells_are_other_data_when_one_label_is_meant(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(folder / "labels.csv", path=IMAGES, label=["a", "b"] * 3)
    one, several = (
        read(manifest, tmp_path / "cache", multi_label=value)[0] for value in (False, True)
    )
    assert one.classes == several.classes
    assert (one.multi_label, several.multi_label) == (False, True)
    assert one.digest != several.digest


def test_another_separator_reads_an_archive_anew(tree: Tree, tmp_path: Path, pack, snapshot):
    folder = tree(*IMAGES)
    write(folder / "labels.csv", path=IMAGES, label=["a|b", "b|c"] * 3)
    archive = pack(tmp_path / "data.zip", snapshot(folder).items())
    classes = [
        read(archive, tmp_path / "cache", multi_label=True, label_separator=separator)[0].classes
        for separator in ("|", "b", "|")
    ]
    assert classes == [("a", "b", "c"), ("a|", "|c"), ("a", "b", "c")]
    assert read(archive, tmp_path / "cache")[0].classes == ("a|b", "b|c")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([None] * 6, "gives no image a label"),
        (["a", None] * 3, "one class, a"),
    ],
)
def test_labels_that_teach_nothing_are_refused(
    labels: list[object], words: str, tree: Tree, tmp_path: Path
):
    folder = tree(*IMAGES)
    manifest = write(folder / "labels.csv", path=IMAGES, label=labels)
    with pytest.raises(DataError, match=words) as caught:
        read(manifest, tmp_path / "cache", multi_label=True)
    assert str(caught.value).count("\n") == 1


def test_a_label_of_val_that_train_has_not_is_refused(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(
        folder / "labels.csv",
        path=IMAGES,
        label=["a|b", "b", "a", "c|a", None, "a"],
        split=["train", "train", "train", "val", "val", "test"],
    )
    with pytest.raises(DataError, match="no training image of class c"):
        read(manifest, tmp_path / "cache", multi_label=True)


def test_one_image_with_two_sets_of_labels_is_refused(tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    manifest = write(
        folder / "labels.csv", path=[*IMAGES, IMAGES[0]], label=["a|b", *["a", "b", "b"] * 2]
    )
    with pytest.raises(DataError, match=r"two labels.*images/0.png"):
        read(manifest, tmp_path / "cache", multi_label=True)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_values_of_slice_columns_are_kept(suffix: str, tree: Tree, tmp_path: Path):
    folder = tree(*IMAGES)
    ages = [61.0, 7.0, None, 61.5, 61.0, 7.0]
    manifest = write(
        folder / f"labels.{suffix}",
        path=IMAGES,
        label=["a", "b"] * 3,
        group=["g1", "g1", "g2", None, "g3", "g3"],
        site=[" north", "south ", None, "north", "south", "NA"],
        age=ages if suffix == "parquet" else [age and f"{age:g}" for age in ages],
    )
    columns = ("age", "site", "group", "label")
    raw, records = read(manifest, tmp_path / "cache", slice_columns=columns)
    assert [record.slices for record in records] == [
        ("61", "north", "g1", "a"),
        ("7", "south", "g1", "b"),
        ("", "", "g2", "a"),
        ("61.5", "north", "", "b"),
        ("61", "south", "g3", "a"),
        ("7", "NA", "g3", "b"),
    ]
    plain, bare = read(manifest, tmp_path / "cache")
    assert [record._replace(slices=()) for record in records] == bare
    assert raw.digest != plain.digest


def test_other_slice_columns_read_an_archive_anew(tree: Tree, tmp_path: Path, pack, snapshot):
    folder = tree(*IMAGES)
    write(folder / "labels.csv", path=IMAGES, label=["a", "b"] * 3, x=range(6), y=["y"] * 6)
    archive = pack(tmp_path / "data.zip", snapshot(folder).items())
    for columns in (("x",), (), ("y", "x"), ("x",)):
        _, records = read(archive, tmp_path / "cache", slice_columns=columns)
        assert records[3].slices == tuple({"x": "3", "y": "y"}[column] for column in columns)


def test_a_slice_column_that_is_not_there_is_named(tree: Tree, tmp_path: Path, snapshot):
    manifest = write(
        tree(*IMAGES) / "labels.csv", path=IMAGES, label=["a", "b"] * 3, site=["x"] * 6
    )
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=r"no column 'sites'; it has: path, label, site\. Did") as e:
        read(manifest, tmp_path / "cache", slice_columns=("site", "sites"))
    assert "slice_columns" in str(e.value)
    assert str(e.value).count("\n") == 1
    assert snapshot(tmp_path) == before


def test_one_image_in_two_slices_is_refused(tree: Tree, tmp_path: Path):
    manifest = write(
        tree(*IMAGES) / "labels.csv",
        path=[*IMAGES, IMAGES[0]],
        label=["a", "b"] * 3 + ["a"],
        site=["x"] * 6 + ["y"],
    )
    assert len(read(manifest, tmp_path / "cache")[1]) == 6
    with pytest.raises(DataError, match=r"slices to: images/0.png"):
        read(manifest, tmp_path / "cache", slice_columns=("site",))


def test_a_slice_column_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"data\.slice_columns names a column twice"):
        DataConfig(kind="manifest", path="a.csv", slice_columns=("site", "sex", "site"))
