"""A small packed dataset, made by hand so that the rooms can be tested apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.artifacts import sha256_bytes
from tasks.config import DataConfig, RunConfig
from tasks.index import ImageRecord, write_index
from tasks.pretrained.load import load_pretrained
from tasks.values import Backbone, InputSpec, PackedSplit, PreparedDataset, SplitName

SPEC = InputSpec(
    resize=16, crop=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bilinear"
)
CLASSES = ("blue", "green", "red")


def pack(folder: Path, name: SplitName, n: int, seed: int) -> PackedSplit:
    """Pack ``n`` noisy images whose brightest channel is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    images = rng.integers(0, 120, size=(n, SPEC.crop, SPEC.crop, 3), dtype=np.uint8)
    images[np.arange(n), :, :, 2 - labels] += 60
    (folder / f"{name}.u8").write_bytes(images.tobytes())
    np.save(folder / f"{name}.labels.npy", labels)
    records = [
        ImageRecord(f"{name}/{i}.png", int(k), name, "", sha256_bytes(images[i].tobytes()))
        for i, k in enumerate(labels)
    ]
    write_index(folder / f"{name}.index.csv", records)
    return PackedSplit(
        name=name,
        images=folder / f"{name}.u8",
        labels=folder / f"{name}.labels.npy",
        index=folder / f"{name}.index.csv",
        n=n,
        height=SPEC.crop,
        width=SPEC.crop,
        counts=tuple(int((labels == k).sum()) for k in range(len(CLASSES))),
        digest=sha256_bytes(images.tobytes() + labels.tobytes()),
    )


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedDataset:
    """Return 61 + 30 + 33 images of three classes that a small network can learn."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    train, val, test = (
        pack(folder, name, n, seed)
        for seed, (name, n) in enumerate((("train", 61), ("val", 30), ("test", 33)))
    )
    return PreparedDataset(
        folder=folder,
        classes=CLASSES,
        input=SPEC,
        train=train,
        val=val,
        test=test,
        skipped=(),
        warnings=(),
        raw_digest=train.digest,
        digest=train.digest,
    )


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Return a maker of small configurations; sections are given as mappings."""

    def make(**sections: dict[str, object]) -> RunConfig:
        model = {"architecture": "graft_tiny", "weights": None} | sections.pop("model", {})
        training = {
            "epochs": 2,
            "batch_size": 20,
            "learning_rate": 0.01,
            "precision": "float32",
        } | sections.pop("training", {})
        strategy = sections.pop("strategy", {"kind": "scratch"})
        return RunConfig.model_validate(
            {
                "data": DataConfig(kind="digits").model_dump(),
                "model": model,
                "training": training,
                "strategy": strategy,
                "output": {"cache": tmp_path / "cache"},
                **sections,
            }
        )

    return make


@pytest.fixture
def backbone(make_config: Callable[..., RunConfig], tmp_path: Path) -> Backbone:
    """Return graft_tiny with random weights."""
    return load_pretrained(make_config(), CLASSES, None, tmp_path / "cache")
