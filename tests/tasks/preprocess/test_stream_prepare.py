"""What is prepared of shards, and what its checks find, against a folder of the same images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.config import DataConfig
from tasks.download.source import download
from tasks.errors import DataError
from tasks.preprocess.drift import class_drift, counted_drift
from tasks.preprocess.prepare import prepare
from tasks.preprocess.stream_prepare import pack_evaluated
from tasks.presence import is_present
from tasks.register.learned import learned_images
from tasks.values import InputSpec, PreparedDataset
from tests.tasks.shard_folders import (
    as_folder,
    indexed,
    prepared_shards,
    samples,
    shard_folder,
)


def checked(data: DataConfig, **checks: object) -> DataConfig:
    return data.model_copy(update={"checks": data.checks.model_copy(update=checks)})


def test_it_is_made_once_and_follows_its_shards(tmp_path: Path, spec: InputSpec):
    data, cache = shard_folder(tmp_path / "shards", (20, 20)), tmp_path / "cache"
    first = prepared_shards(data, spec, cache)
    assert PreparedDataset.model_validate_json(first.model_dump_json()) == first
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert prepared_shards(data, spec, cache) == first
    moved = data.model_copy(update={"path": str(tmp_path / "moved")})
    shutil.move(tmp_path / "shards", tmp_path / "moved")
    assert not is_present(first)  # so that what Prefect kept is not used
    again = prepared_shards(moved, spec, cache)
    assert again.train.url == str(tmp_path / "moved")
    assert (again.folder, again.digest, again.train.digest) == (
        first.folder,
        first.digest,
        first.train.digest,
    )
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == times


def test_it_learned_from_the_images_that_a_folder_has(tmp_path: Path, spec: InputSpec):
    contents = {"train-0": samples(9, 0), "train-1": samples(9, 1), "val-0": samples(6, 2)}
    contents["test-0"] = samples(6, 3)
    folder = as_folder(tmp_path / "photos", contents)
    ours = prepared_shards(indexed(tmp_path / "shards", contents), spec, tmp_path / "cache")
    theirs = prepare(folder, 0, download(folder, tmp_path / "cache"), spec, tmp_path / "cache")
    learned_images(ours).write(tmp_path / "ours")
    learned_images(theirs).write(tmp_path / "theirs")
    assert len((tmp_path / "ours").read_bytes()) == 24 * 8
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_test_image_that_is_trained_on_is_found(tmp_path: Path, spec: InputSpec):
    contents = {"train-0": samples(30, 0), "val-0": samples(6, 2), "test-0": samples(6, 3)}
    contents["test-0"] += contents["train-0"][3:5]
    warned = checked(DataConfig(kind="shards", path="unused"), exact_duplicates="warn")
    data = indexed(tmp_path / "shards", contents, checks=warned.checks.model_dump())
    prepared = prepared_shards(data, spec, tmp_path / "cache")
    (row,) = (each for each in prepared.checks if each.name == "exact_duplicates")
    assert (row.status, row.found) == ("warned", 2)
    assert "a training image (train)" in row.examples[0]
    for policy, words in (("fail", "2 image"), ("drop", "none can be left out")):
        strict = checked(data, exact_duplicates=policy)
        with pytest.raises(DataError, match=words):
            prepared_shards(strict, spec, tmp_path / "cache")


def test_near_copies_add_to_what_is_refused_for_being_trained_on(tmp_path: Path, spec: InputSpec):
    contents = {"train-0": samples(30, 0), "val-0": samples(6, 2), "test-0": samples(6, 3)}
    contents["test-0"] += contents["train-0"][3:5]
    warned = checked(DataConfig(kind="shards", path="unused"), exact_duplicates="warn")
    warned = indexed(tmp_path / "shards", contents, checks=warned.checks.model_dump())
    data = checked(warned, exact_duplicates="fail", near_duplicates="fail")
    raw = download(data, tmp_path / "cache")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(DataError, match="2 image"):
        pack_evaluated(data, raw, spec, tmp_path / "scratch")
    assert (tmp_path / "scratch" / "test.u8").exists()  # both were looked for before it was said


def test_tiny_classes_are_counted_and_cannot_be_dropped(tmp_path: Path, spec: InputSpec):
    data = shard_folder(tmp_path / "shards", (20,))
    prepared = prepared_shards(data, spec, tmp_path / "cache")
    (row,) = (each for each in prepared.checks if each.name == "tiny_classes")
    assert (row.status, row.found) == ("warned", 3)  # 7, 7 and 6 images
    with pytest.raises(DataError, match=r"Set data\.checks\.tiny_classes=warn"):
        prepared_shards(checked(data, tiny_classes="drop"), spec, tmp_path / "cache")


def test_drift_by_counts_is_drift_by_images(make_raw, photographs):
    from tasks.index import read_index

    names = [*photographs]
    files = {f"train/{name}": photographs[name] for name in names[:9] + names[12:14]}
    files |= {f"val/{name}": photographs[name] for name in names[9:11] + names[14:20]}
    files |= {f"test/{name}": photographs[name] for name in names[11:12] + names[20:]}
    raw = make_raw(files)
    records = read_index(raw.index)
    splits = {name: [r for r in records if r.split == name] for name in ("train", "val", "test")}
    counts = {
        name: [sum(r.label == k for r in held) for k in (0, 1)] for name, held in splits.items()
    }
    data = checked(DataConfig(kind="digits"), drift_alpha=0.1)
    found = class_drift(splits, raw.classes, data)
    assert found.found == 1
    assert counted_drift(counts, raw.classes, data) == found
