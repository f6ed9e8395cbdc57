"""Digits against scikit-learn's arrays, CIFAR-10 against a binary release built here."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder

from tasks.artifacts import sha256_file
from tasks.config import DataConfig
from tasks.download.source import download
from tasks.errors import ConfigError, DataError
from tasks.index import read_index

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def test_digits_are_scikit_learns_to_the_last_value(tmp_path: Path):
    raw = download(DataConfig(kind="digits"), tmp_path)
    records = sorted(read_index(raw.index), key=lambda record: Path(record.path).name)
    pixels = np.stack([np.asarray(Image.open(raw.root / record.path)) for record in records])
    values, labels = load_digits(return_X_y=True)
    np.testing.assert_array_equal(np.rint(pixels * (16 / 255)).reshape(-1, 64), values)
    assert pixels.max() == 255
    assert [int(raw.classes[record.label]) for record in records] == labels.tolist()
    assert raw.counts == {"": 1797}
    assert all(sha256_file(raw.root / record.path) == record.sha256 for record in records[:50])


def test_digits_are_the_same_in_another_cache(tmp_path: Path):
    first = download(DataConfig(kind="digits"), tmp_path / "a")
    second = download(DataConfig(kind="digits"), tmp_path / "b")
    assert first.digest == second.digest
    assert first.index.read_bytes() == second.index.read_bytes()


@pytest.mark.parametrize("values", [{"path": "somewhere"}, {"manifest": "a.csv"}])
def test_digits_take_no_place(values: dict[str, str], tmp_path: Path):
    with pytest.raises(ConfigError):
        download(DataConfig.model_validate({"kind": "digits", **values}), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def batch(seed: int, n: int = 20) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Return images (n, 32, 32, 3), labels (n,) and the file as the publisher describes it."""
    images_nhwc = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    labels_n = np.arange(n, dtype=np.uint8) % 10
    rows = [
        bytes([label]) + b"".join(image[:, :, plane].tobytes() for plane in range(3))
        for image, label in zip(images_nhwc, labels_n, strict=True)
    ]
    return images_nhwc, labels_n, b"".join(rows)


def members(folder: str = "cifar-10-batches-bin/") -> dict[str, bytes]:
    files = {folder + name: batch(seed)[2] for seed, name in enumerate(BATCHES)}
    return {**files, f"{folder}batches.meta.txt": "\n".join([*NAMES, "", ""]).encode()}


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin/", ""])
def test_cifar10_pixels_and_labels(folder: str, tmp_path: Path, pack: Callable[..., Path]):
    archive = pack(tmp_path / "cifar.tar.gz", members(folder).items())
    raw = download(DataConfig(kind="cifar10", path=str(archive)), tmp_path / "cache")
    assert raw.counts == {"train": 100, "test": 20}
    assert list(raw.classes) == NAMES
    for split, seeds in {"train": range(5), "test": [5]}.items():
        images_nhwc = np.concatenate([batch(seed)[0] for seed in seeds])
        labels_n = np.concatenate([batch(seed)[1] for seed in seeds])
        oracle = ImageFolder(str(raw.root / split))
        order = sorted(oracle.samples, key=lambda sample: Path(sample[0]).name)
        read = np.stack([np.asarray(Image.open(path)) for path, _ in order])
        np.testing.assert_array_equal(read, images_nhwc)
        assert [label for _, label in order] == labels_n.tolist()
    assert Counter(record.split for record in read_index(raw.index)) == raw.counts


def test_cifar10_is_written_once(tmp_path: Path, pack: Callable[..., Path]):
    archive = pack(tmp_path / "cifar.tar.gz", members().items())
    config = DataConfig(kind="cifar10", path=str(archive), sha256=sha256_file(archive))
    first = download(config, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "archives")
    assert download(config, tmp_path / "cache") == first


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "not the binary release": ({"test_batch.bin": b""}, "cut off"),
    "record cut": ({"data_batch_2.bin": batch(0)[2][:-1]}, "cut off"),
    "label of 10": ({"data_batch_3.bin": b"\n" + bytes(3072)}, "has the label 10"),
    "nine names": ({"batches.meta.txt": "\n".join(NAMES[:9]).encode()}, "ten classes"),
    "name leads out": (
        {"batches.meta.txt": "\n".join([*NAMES[:9], "../../out"]).encode()},
        "ten classes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_cifar10_is_refused(name: str, tmp_path: Path, pack: Callable[..., Path]):
    changed, words = BAD[name]
    archive = pack(tmp_path / "cifar.tar.gz", {**members(""), **changed}.items())
    with pytest.raises(DataError, match=words):
        download(DataConfig(kind="cifar10", path=str(archive)), tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"archives", "builtin"}
    assert not list((tmp_path / "cache").glob("builtin/*"))


def test_class_folders_are_sent_to_their_own_kind(tmp_path: Path, pack, png):
    archive = pack(tmp_path / "cifar.zip", [("train/cat/1.png", png(1))])
    with pytest.raises(DataError, match=r"data\.kind=folder"):
        download(DataConfig(kind="cifar10", path=str(archive)), tmp_path / "cache")


def test_batch_that_is_missing_is_named(tmp_path: Path, pack: Callable[..., Path]):
    files = members()
    del files["cifar-10-batches-bin/data_batch_4.bin"]
    archive = pack(tmp_path / "cifar.tar", files.items())
    with pytest.raises(DataError, match=r"data_batch_4\.bin"):
        download(DataConfig(kind="cifar10", path=str(archive)), tmp_path / "cache")


@pytest.mark.network
def test_publishers_cifar10(tmp_path: Path):
    raw = download(DataConfig(kind="cifar10"), tmp_path)
    assert raw.counts == {"train": 50_000, "test": 10_000}
