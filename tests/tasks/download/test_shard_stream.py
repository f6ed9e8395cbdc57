"""Training images streamed from a store, several shards at once, over a line that is cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import fsspec
import pytest
import torch

from tasks.config import DataConfig
from tasks.errors import TransientDataError
from tasks.preprocess.stream import StreamedImages
from tasks.preprocess.stream_order import Limits
from tasks.values import InputSpec
from tests.tasks.shard_folders import prepared_shards, shard_folder

SPEC = InputSpec(resize=32, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")


@pytest.fixture
def both(s3: str, tmp_path: Path) -> tuple[DataConfig, DataConfig]:
    """Return six shards in a folder, and the same in a store."""
    local = shard_folder(tmp_path / "shards", (30,) * 6)
    fsspec.filesystem("s3").put(f"{tmp_path}/shards/", f"{s3}/", recursive=True)
    return local, local.model_copy(update={"path": s3})


def stream(data: DataConfig, cache: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    prepared = prepared_shards(data, SPEC, cache)
    images = StreamedImages(prepared.train, SPEC, data, Limits(open=3, images=20))
    order = images.order(60, 1, torch.Generator().manual_seed(0))
    return list(images.batches(order, 0, 60, torch.device("cpu")))


def test_a_store_gives_what_a_folder_gives_though_its_line_is_cut(both, store, at_once, tmp_path):
    local, remote = both
    found = [stream(data, tmp_path / "cache") for data in (local, remote)]
    store.cut(3, after=40_000)
    found.append(stream(remote, tmp_path / "cache"))
    assert store.cuts == 0
    for one, other in pairwise(found):
        assert len(one) == len(other) == 3
        for (images, labels), (same_images, same_labels) in zip(one, other, strict=True):
            assert torch.equal(images, same_images)
            assert torch.equal(labels, same_labels)


def test_a_line_that_stays_cut_ends_the_epoch(both, store, at_once, tmp_path):
    _, remote = both
    prepared_shards(remote, SPEC, tmp_path / "cache")
    store.cut(10_000, after=40_000)
    with pytest.raises(TransientDataError, match=r"train-00000\d\.tar cannot be reached"):
        stream(remote, tmp_path / "cache")
    store.cut(0, after=0)
