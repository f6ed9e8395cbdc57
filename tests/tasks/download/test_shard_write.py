"""Making shards: the same images in the same splits as ``prepare``, whole, and just once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from tasks.config import DataConfig
from tasks.download.shard_pack import Packing
from tasks.download.shard_samples import read_samples
from tasks.download.shard_write import Written, write_shards
from tasks.download.shards import INDEX_FILE
from tasks.download.source import download
from tasks.errors import ConfigError, DataError
from tasks.index import read_index
from tasks.preprocess.prepare import prepare
from tasks.values import InputSpec

SPEC = InputSpec(resize=6, crop=6, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")
FEW = Packing(images=7)
Tree = Callable[..., Path]


@pytest.fixture
def photos(tree: Tree) -> Path:
    """Return 60 images in three class folders."""
    return tree(*(f"{name}/{number}.png" for name in ("a", "b", "c") for number in range(20)))


def write(config: DataConfig, target: str | Path, tmp_path: Path, **given: object) -> Written:
    return write_shards(config, 3, tmp_path / "cache", str(target), **{"packing": FEW, **given})


def read(made: Written, split: str) -> list[tuple[str, str, bytes]]:
    """Return name, label and file of every image of a split."""
    return [
        (sample.path, made.index.classes[sample.label], sample.image)
        for shard in made.index.shards
        if shard.split == split
        for sample in read_samples(made.url, shard, made.index.classes)
    ]


def held_to_prepare(made: Written, config: DataConfig, tmp_path: Path) -> None:
    """Compare with what ``prepare`` makes of the same images and seed."""
    raw = download(config, tmp_path / "cache")
    prepared = prepare(config, 3, raw, SPEC, tmp_path / "other")
    assert made.index.classes == prepared.classes
    for split in ("train", "val", "test"):
        packed = getattr(prepared, split)
        wanted = [
            (r.path, prepared.classes[r.labels[0]], (raw.root / r.path).read_bytes())
            for r in read_index(packed.index)
        ]
        assert sorted(read(made, split)) == sorted(wanted)
        assert made.index.counts[split] == packed.counts


def test_a_store_gives_back_every_byte_in_the_splits_of_a_run(photos, s3, tmp_path):
    config = DataConfig(kind="folder", path=str(photos))
    made = write(config, s3, tmp_path)
    assert made.new
    held_to_prepare(made, config, tmp_path)
    assert (made.index.height, made.index.width) == (6, 5)


def test_declared_splits_groups_and_drops_are_those_of_a_run(photos, png, tmp_path):
    (photos / "a" / "copy.png").write_bytes(png(25))  # of b/5.png
    (photos / "a" / "bad.png").write_bytes(b"no image")
    (photos / "c" / "large.png").write_bytes((photos / "c" / "1.png").read_bytes())
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in photos.rglob("*.png")]
    lines = [f"{row},{'test' if row[2] == '1' else 'train'},{row[2]}" for row in sorted(rows)]
    (photos / "table.csv").write_text("\n".join(["path,label,split,group", *lines]))
    config = DataConfig(
        kind="manifest",
        path=str(photos / "table.csv"),
        on_bad_image="skip",
        checks={
            "conflicting_labels": "drop",
            "near_duplicates": "drop",
            "group_leakage": "warn",
            "exact_duplicates": "drop",
        },
    )
    made = write(config, tmp_path / "shards", tmp_path)
    held_to_prepare(made, config, tmp_path)
    assert any("bad.png" in warning for warning in made.warnings)
    assert any("conflicting_labels=drop left out 2" in warning for warning in made.warnings)
    groups = {s.group for shard in made.index.shards for s in samples(made, shard)}
    assert groups >= {"0", "1", "9"}


def samples(made: Written, shard: object) -> list:
    return list(read_samples(made.url, shard, made.index.classes))


def test_shards_are_full_mixed_and_read_by_webdataset(photos, tmp_path):
    made = write(DataConfig(kind="folder", path=str(photos)), tmp_path / "shards", tmp_path)
    paths = [str(tmp_path / "shards" / s.name) for s in made.index.shards if s.split == "train"]
    found = list(webdataset.WebDataset(paths, shardshuffle=False))
    facts = [json.loads(sample["json"]) for sample in found]
    assert [
        (fact["path"], fact["label"], sample["png"])
        for fact, sample in zip(facts, found, strict=True)
    ] == read(made, "train")
    images = [shard.images for shard in made.index.shards if shard.split == "train"]
    assert images[:-1] == [7] * (len(images) - 1)
    labels = [fact["label"] for fact in facts]
    assert all(len(Counter(labels[start : start + 7])) > 1 for start in (0, 7, 14, 21))


def test_a_shard_is_full_by_its_bytes_too(photos, tmp_path):
    size = max(path.stat().st_size for path in photos.rglob("*.png"))
    config = DataConfig(kind="folder", path=str(photos))
    made = write(config, tmp_path / "shards", tmp_path, packing=Packing(100, 3 * size))
    assert {shard.images for shard in made.index.shards} <= {1, 2, 3}
    assert sum(shard.images for shard in made.index.shards) == 60


def test_the_same_images_give_the_same_files_anywhere(photos, s3, tmp_path, snapshot):
    config = DataConfig(kind="folder", path=str(photos))
    first = write(config, tmp_path / "one", tmp_path)
    second = write_shards(config, 3, tmp_path / "cache2", str(tmp_path / "two"), FEW)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert write(config, s3, tmp_path).index == first.index == second.index
    assert list((tmp_path / "cache").glob(".*")) == []


def test_what_is_there_already_stays_and_what_is_gone_is_mended(photos, s3, tmp_path):
    import fsspec

    def look() -> dict[str, tuple[object, bytes]]:
        files.invalidate_cache()
        return {p: (files.info(p)["LastModified"], files.cat_file(p)) for p in files.ls(folder)}

    config = DataConfig(kind="folder", path=str(photos))
    files, folder = fsspec.filesystem("s3"), s3.removeprefix("s3://")
    first, gone = write(config, s3, tmp_path), f"{folder}/train-000001.tar"
    before = look()
    files.rm_file(gone)
    time.sleep(1)  # the store's clock has whole seconds
    again = write(config, s3, tmp_path)
    assert (again.new, again.index) == (False, first.index)
    after = look()
    assert [path for path in before if after[path][0] != before[path][0]] == [gone]
    assert [path for path in before if after[path][1] != before[path][1]] == []


def test_a_folder_with_other_shards_is_left_alone(photos, tmp_path, snapshot, png):
    config = DataConfig(kind="folder", path=str(photos))
    write(config, tmp_path / "shards", tmp_path)
    before = snapshot(tmp_path / "shards")
    for given in ({"packing": Packing(8)}, {}):
        with pytest.raises(DataError, match="holds other shards already"):
            write(config, tmp_path / "shards", tmp_path, **given)
        (photos / "a" / "new.png").write_bytes(png(99))  # for the second
    assert snapshot(tmp_path / "shards") == before


@pytest.mark.parametrize("told", ["prefixes", "counts"])
def test_an_index_that_says_otherwise_of_the_same_shards_is_left_alone(
    told, photos, tmp_path, snapshot
):
    config = DataConfig(kind="folder", path=str(photos))
    write(config, tmp_path / "shards", tmp_path)
    path = tmp_path / "shards" / INDEX_FILE
    facts = json.loads(path.read_text())
    first, second, *rest = facts["counts"]["train"]
    other = "0" * 64 if told == "prefixes" else [first + 1, second - 1, *rest]
    facts[told]["train"] = other
    path.write_text(json.dumps(facts))
    before = snapshot(tmp_path / "shards")
    with pytest.raises(DataError, match=r"holds other shards already.*\nName an empty folder"):
        write(config, tmp_path / "shards", tmp_path)
    assert snapshot(tmp_path / "shards") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.config import DataConfig
from tasks.download.shard_folder import Folder
from tasks.download.shard_pack import Packing
from tasks.download.shard_write import write_shards
put = Folder.put
def torn(self, path, name):
    if name == "train-000002.tar":
        path.write_bytes(path.read_bytes()[:3_000])
    put(self, path, name)
    if name == "train-000002.tar":
        os.kill(os.getpid(), signal.SIGKILL)
Folder.put = torn
config = DataConfig(kind="folder", path=sys.argv[1])
write_shards(config, 3, Path(sys.argv[2]), sys.argv[3], Packing(images=7))
"""


def test_what_a_killed_one_left_is_overwritten(photos, tmp_path, snapshot, repository):
    target, cache = tmp_path / "shards", tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, str(photos), str(cache), str(target)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (target / "train-000002.tar").stat().st_size == 3_000
    assert not (target / INDEX_FILE).exists()
    config = DataConfig(kind="folder", path=str(photos))
    assert write(config, target, tmp_path).new
    write(config, tmp_path / "clean", tmp_path)
    assert snapshot(target) == snapshot(tmp_path / "clean")


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"kind": "shards", "path": "x"}, ConfigError, "are shards already"),
        (
            {"kind": "manifest", "path": "x", "multi_label": True},
            ConfigError,
            "data.multi_label is set",
        ),
        (
            {"kind": "manifest", "path": "x", "slice_columns": ("site",)},
            ConfigError,
            "data.slice_columns is set",
        ),
        ({"kind": "folder", "path": "/nowhere/at/all"}, DataError, "not there"),
    ],
)
def test_what_cannot_be_packed_is_refused(config, error, words, tmp_path):
    with pytest.raises(error, match=words):
        write(DataConfig(**config), tmp_path / "shards", tmp_path)
    assert not (tmp_path / "shards").exists()


def test_a_bucket_that_is_not_there_is_refused_before_any_image_is_read(photos, s3, tmp_path):
    config = DataConfig(kind="folder", path=str(photos))
    with pytest.raises(DataError, match=r"s3://nobodys is not there"):
        write(config, "s3://nobodys/photos", tmp_path)
    assert not (tmp_path / "cache").exists()


def test_failing_checks_leave_nothing_behind(photos, png, tmp_path):
    (photos / "a" / "copy.png").write_bytes(png(25))
    config = DataConfig(kind="folder", path=str(photos))
    with pytest.raises(DataError, match="conflicting_labels"):
        write(config, tmp_path / "shards", tmp_path)
    assert not (tmp_path / "shards").exists()
