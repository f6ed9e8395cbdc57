"""Folders of shards for tests: written by Python's tarfile, indexed by ``graft shards --index``."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.config import DataConfig
from tasks.download.shard_index import index_shards
from tasks.download.source import download
from tasks.preprocess.prepare import prepare
from tasks.values import InputSpec, PreparedDataset

CLASSES = ("blue", "green", "red")
Sample = tuple[str, bytes, str]  # key, file and label


def picture(seed: int, label: int, height: int = 32, width: int = 32, kind: str = "PNG") -> bytes:
    """Return a noisy image whose brightest channel is the class; another for each seed."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 120, (height, width, 3), dtype=np.uint8)
    pixels[..., 2 - label] += 60
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def samples(n: int, seed: int, side: int = 32, growth: int = 0, kind: str = "PNG") -> list[Sample]:
    """Return ``n`` pictures, the classes in turn, each ``growth`` px larger than the one before."""
    sizes = [(side + growth * i, side + 2 * growth * i) for i in range(n)]
    return [
        (f"{seed:03}-{i:05}", picture(1_000_000 * seed + i, i % 3, *sizes[i], kind), CLASSES[i % 3])
        for i in range(n)
    ]


def write_shard(path: Path, held: Sequence[Sample]) -> None:
    """Write a tar as WebDataset has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, image, label in held:
            for suffix, content in (
                ("png", image),
                ("json", json.dumps({"label": label}).encode()),
            ):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def shard_folder(folder: Path, train: Sequence[int], val: int = 30, test: int = 33) -> DataConfig:
    """Write and index shards of so many training images each, and one each of the other splits."""
    contents = {f"train-{i:06}": samples(n, i) for i, n in enumerate(train)}
    contents |= {"val-000000": samples(val, 900), "test-000000": samples(test, 901)}
    return indexed(folder, contents)


def indexed(folder: Path, contents: Mapping[str, Sequence[Sample]], **data: object) -> DataConfig:
    """Write and index the shards of ``contents``; return how a run names them."""
    written: dict[int, Path] = {}
    for name, held in contents.items():
        path = folder / f"{name}.tar"
        if id(held) in written:
            shutil.copyfile(written[id(held)], path)
        else:
            write_shard(path, held)
        written[id(held)] = path
    config = DataConfig.model_validate({"kind": "shards", "path": str(folder), **data})
    index_shards(config)
    return config


def prepared_shards(config: DataConfig, spec: InputSpec, cache: Path) -> PreparedDataset:
    """Download and prepare the shards that ``config`` names."""
    return prepare(config, 0, download(config, cache), spec, cache)


def as_folder(folder: Path, shards: Mapping[str, Sequence[Sample]]) -> DataConfig:
    """Write the images of shards as class folders, under their splits."""
    for name, held in shards.items():
        for key, image, label in held:
            path = folder / name.partition("-")[0] / label / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    return DataConfig(kind="folder", path=str(folder))
