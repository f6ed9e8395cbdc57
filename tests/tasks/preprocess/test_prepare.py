"""The room's front door: policies on bad images, the cache, and real photographs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.config import DataConfig
from tasks.download.source import download
from tasks.errors import DataError
from tasks.evaluationconfig import ChecksConfig
from tasks.index import read_index
from tasks.preprocess.check import check_images
from tasks.preprocess.decode import UnreadableImage, decode_rgb
from tasks.preprocess.prepare import prepare
from tasks.values import InputSpec, PreparedDataset, RawDataset

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

FAIL = DataConfig(path="images")
SKIP = DataConfig(path="images", on_bad_image="skip")
WARN = DataConfig(
    path="images", checks=ChecksConfig(exact_duplicates="warn", conflicting_labels="warn")
)
IMAGENET = InputSpec(
    resize=256,
    crop=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
)
MakeRaw = Callable[..., RawDataset]
Difficult = dict[str, tuple[bytes, str | None]]


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file below ``folder`` with its inode and time of change."""
    stats = {str(p): p.stat() for p in folder.rglob("*") if p.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.fixture
def mixed(
    make_raw: MakeRaw, photographs: dict[str, bytes], difficult: Difficult
) -> tuple[RawDataset, dict[str, str]]:
    """Return good photographs with every difficult image among them, and the bad ones' reasons."""
    added = {f"cats/{name}": content for name, (content, _) in difficult.items()}
    bad = {f"cats/{name}": why for name, (_, why) in difficult.items() if why is not None}
    return make_raw(photographs | added), bad


def test_all_bad_images_are_listed_at_once_and_nothing_is_kept(
    mixed: tuple[RawDataset, dict[str, str]], spec: InputSpec, tmp_path: Path
) -> None:
    raw, bad = mixed
    with pytest.raises(DataError) as caught:
        prepare(FAIL, 0, raw, spec, tmp_path / "cache")
    head, listed = str(caught.value).split("\n")
    assert head.startswith(f"{len(bad)} of 40 images cannot be used")
    assert len(listed.split("; ")) == len(bad)
    for path, why in bad.items():
        assert f"{path} ({why}" in listed
    assert files_in(tmp_path / "cache") == {}


def test_bad_images_are_left_out_by_name_where_the_policy_says_so(
    mixed: tuple[RawDataset, dict[str, str]], spec: InputSpec, tmp_path: Path
) -> None:
    raw, bad = mixed
    prepared = prepare(SKIP, 0, raw, spec, tmp_path / "cache")
    skipped = {image.path: image.reason for image in prepared.skipped}
    assert skipped.keys() == bad.keys()
    assert all(skipped[path].startswith(why) for path, why in bad.items())
    splits = (prepared.train, prepared.val, prepared.test)
    kept = {record.path for split in splits for record in read_index(split.index)}
    assert kept == {record.path for record in read_index(raw.index)} - bad.keys()
    assert sum(split.n for split in splits) == len(kept) == 40 - len(bad)


def test_check_finds_the_same_images_and_writes_nothing(
    mixed: tuple[RawDataset, dict[str, str]], spec: InputSpec, tmp_path: Path
) -> None:
    raw, bad = mixed
    before = files_in(tmp_path)
    found = check_images(raw.root, read_index(raw.index), hashed=True).bad
    assert {image.path for image in found} == bad.keys()
    assert files_in(tmp_path) == before
    prepared = prepare(SKIP, 0, raw, spec, tmp_path / "cache")
    assert sorted(found, key=lambda i: i.path) == sorted(prepared.skipped, key=lambda i: i.path)


def test_the_first_twenty_bad_images_are_named_and_the_rest_counted(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    empty = {f"dogs/empty{i:02}.jpg": b"%d" % i for i in range(23)}
    with pytest.raises(DataError, match="23 of 47 images") as caught:
        prepare(FAIL, 0, make_raw(photographs | empty), spec, tmp_path / "cache")
    listed = str(caught.value).split("\n")[1]
    assert listed.count("not an image") == 20
    assert listed.endswith(") and 3 more")


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_split_that_loses_a_class_is_refused_and_nothing_is_kept(
    make_raw: MakeRaw,
    photographs: dict[str, bytes],
    spec: InputSpec,
    tmp_path: Path,
    policy: str,
) -> None:
    files = {f"train/{path}": content for path, content in photographs.items()}
    files |= {f"test/cats/{i}.png": content for i, content in enumerate([b"no", b"image"])}
    files |= {"test/dogs/1.png": next(iter(photographs.values()))}
    bad_cats = make_raw(files)
    config = WARN.model_copy(update={"on_bad_image": policy})
    expected = "2 of 27 images" if policy == "fail" else "No readable image is left of class 'cats'"
    with pytest.raises(DataError, match=expected):
        prepare(config, 0, bad_cats, spec, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == {}


def test_equal_files_are_refused_or_kept_with_a_warning(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    files = {f"train/{path}": content for path, content in photographs.items()}
    files |= {f"test/{path}": photographs[path] for path in list(photographs)[10:14]}
    raw = make_raw(files)
    with pytest.raises(DataError, match=r"exact_duplicates: 4 image\(s\) are in two splits: "):
        prepare(FAIL, 0, raw, spec, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == {}
    prepared = prepare(WARN, 0, raw, spec, tmp_path / "cache")
    assert prepared.warnings[0].startswith("4 image(s) are in two splits: train/cats/10.png (")


def test_classes_with_few_images_or_none_are_warned_of(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    contents = list(photographs.values())
    files = {f"train/cats/{i}.png": contents[i] for i in range(12)}
    files |= {f"train/dogs/{i}.png": contents[12 + i] for i in range(8)}
    files |= {"test/cats/1.png": contents[20], "val/cats/1.png": contents[21]}
    files |= {"val/dogs/1.png": contents[22]}
    prepared = prepare(FAIL, 0, make_raw(files), spec, tmp_path / "cache")
    assert prepared.warnings == (
        "Class 'dogs' has only 8 training image(s).",
        "No test image of class 'dogs'.",
    )


def test_names_that_are_no_utf8_are_packed_and_listed(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    odd = b"cats/\xff%s.png".decode("utf-8", "surrogateescape")
    good = photographs | {odd % "good": photographs["cats/00.png"]}
    prepared = prepare(FAIL, 0, make_raw(good), spec, tmp_path / "cache")
    assert PreparedDataset.model_validate_json(prepared.model_dump_json()) == prepared
    with pytest.raises(DataError, match=r"cats/\\udcffbad\.png"):
        prepare(FAIL, 0, make_raw(good | {odd % "bad": b"bad"}), spec, tmp_path / "cache")


def test_a_second_run_reads_nothing_and_writes_nothing(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    raw, cache = make_raw(photographs), tmp_path / "cache"
    first = prepare(FAIL, 0, raw, spec, cache)
    before = files_in(cache)
    for path in photographs:  # gone: a hit cannot have looked at them
        (raw.root / path).unlink()
    assert prepare(FAIL, 0, raw, spec, cache) == first
    assert files_in(cache) == before
    assert PreparedDataset.model_validate_json(first.model_dump_json()) == first


OTHER_CHECKS: list[dict[str, object]] = [
    {"exact_duplicates": "warn"},
    {"near_duplicates": "off"},
    {"near_distance": 3},
    {"conflicting_labels": "drop"},
    {"group_leakage": "warn"},
    {"class_drift": "fail"},
    {"drift_alpha": 0.01},
    {"tiny_class": 5},
    {"tiny_class": 5, "tiny_classes": "drop"},
]


def test_every_setting_that_matters_makes_another_pack_and_no_other_does(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    raw, cache = make_raw(photographs), tmp_path / "cache"

    def folder(seed: int = 0, spec: InputSpec = spec, **given: object) -> Path:
        return prepare(FAIL.model_copy(update=given), seed, raw, spec, cache).folder

    base = folder()
    others = [
        folder(seed=1),
        folder(val_fraction=0.2),
        folder(test_fraction=0.3),
        folder(on_bad_image="skip"),
        *(folder(checks=FAIL.checks.model_copy(update=changes)) for changes in OTHER_CHECKS),
        folder(spec=spec.model_copy(update={"resize": 40})),
        folder(spec=spec.model_copy(update={"mean": (0.5, 0.5, 0.5)})),
    ]
    assert len({base, *others}) == 7 + len(OTHER_CHECKS)
    assert {
        name for changes in OTHER_CHECKS for name in changes
    } == ChecksConfig.model_fields.keys()
    assert folder(path="elsewhere", timeout_seconds=5.0) == base


def test_the_seed_does_not_matter_where_all_splits_are_declared(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    names = ("train", "val", "test")
    files = {f"{names[i % 3]}/{p}": c for i, (p, c) in enumerate(photographs.items())}
    raw = make_raw(files)
    folders = {prepare(FAIL, seed, raw, spec, tmp_path / "cache").folder for seed in range(3)}
    assert len(folders) == 1


@pytest.fixture(scope="module")
def hymenoptera(
    shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataConfig, RawDataset, Path]:
    cache = tmp_path_factory.mktemp("hymenoptera")
    config = DataConfig(path=str(shared / "data/hymenoptera.zip"))
    return config, download(config, cache), cache


def test_hymenoptera_is_packed_whole_and_cached(
    hymenoptera: tuple[DataConfig, RawDataset, Path],
) -> None:
    config, raw, cache = hymenoptera
    start = time.perf_counter()
    prepared = prepare(config, 0, raw, IMAGENET, cache)
    packed = time.perf_counter() - start
    before = files_in(prepared.folder)
    start = time.perf_counter()
    assert prepare(config, 0, raw, IMAGENET, cache) == prepared
    again = time.perf_counter() - start
    print(f"\nhymenoptera: packed in {packed:.2f} s, found again in {again * 1000:.1f} ms")
    assert files_in(prepared.folder) == before
    left_out = "1 file(s) are not images by name and were left out: train/ants/imageNotFound.gif."
    assert left_out in prepared.warnings
    assert again < packed / 20

    assert prepared.val.counts == (70, 83)
    assert prepared.train.n + prepared.test.n == raw.counts["train"]
    assert (prepared.train.height, prepared.val.height, prepared.test.height) == (256, 224, 224)
    size = prepared.train.n * 256 * 256 * 3
    assert prepared.train.images.stat().st_size == size
    assert prepared.skipped == ()


def test_cifar10_is_packed_at_its_own_size(
    shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cifar10")
    config = DataConfig(path=str(shared / "data/cifar10-small.zip"))
    raw = download(config, cache)
    start = time.perf_counter()
    prepared = prepare(config, 0, raw, IMAGENET, cache)
    print(f"\ncifar10-small: packed in {time.perf_counter() - start:.2f} s")
    splits = (prepared.train, prepared.val, prepared.test)
    assert [split.n for split in splits] == [4500, 500, 1000]
    assert [split.counts for split in splits] == [(450,) * 10, (50,) * 10, (100,) * 10]
    assert all((split.height, split.width) == (32, 32) for split in splits)
    images = np.fromfile(prepared.test.images, dtype=np.uint8).reshape(1000, -1)
    assert len(np.unique(images, axis=0)) == 1000
    assert 110 < images.mean() < 130  # CIFAR-10's published channel means are 125, 123 and 114


def test_real_photographs_pass_the_check_and_cut_off_ones_do_not(
    hymenoptera: tuple[DataConfig, RawDataset, Path],
) -> None:
    _, raw, _ = hymenoptera
    records = read_index(raw.index)
    assert check_images(raw.root, records, hashed=False) == (records, [], {})
    for record in read_index(raw.index)[::40]:
        content = (raw.root / record.path).read_bytes()
        with pytest.raises(UnreadableImage, match="damaged"):
            decode_rgb(content[: len(content) * 3 // 5])


def test_files_that_are_no_images_by_name_are_warned_of_though_the_pack_is_kept(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    raw = make_raw(photographs)
    some = raw.model_copy(update={"ignored": ("a.gif", "b.heic"), "ignored_count": 2})
    many = raw.model_copy(update={"ignored": ("a.gif",) * 20, "ignored_count": 1234})
    texts = [
        prepare(FAIL, 0, each, spec, tmp_path / "cache").warnings for each in (raw, some, many)
    ]
    start = "file(s) are not images by name and were left out: a.gif"
    assert not any("left out" in warning for warning in texts[0])
    assert f"2 {start}, b.heic." in texts[1]
    assert any(w.startswith(f"1,234 {start}") and w.endswith(" and 1,214 more.") for w in texts[2])
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == 1


def test_images_left_out_are_warned_of_and_count_no_more(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    contents = list(photographs.values())
    files = {f"train/cats/{i:02}.png": contents[i] for i in range(10)}
    files |= {f"train/dogs/{i:02}.png": contents[10 + i] for i in range(9)}
    files |= {"train/dogs/09.png": b"no image"}
    for name, i in (("val", 20), ("test", 22)):
        files |= {f"{name}/cats/1.png": contents[i], f"{name}/dogs/1.png": contents[i + 1]}
    prepared = prepare(SKIP, 0, make_raw(files), spec, tmp_path / "cache")
    assert prepared.warnings == (
        "1 image(s) cannot be used and were left out: train/dogs/09.png (not an image).",
        "Class 'dogs' has only 9 training image(s).",
    )
