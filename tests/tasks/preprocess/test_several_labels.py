"""Packs of images with several labels: what is written, read in batches, and told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import digest_records, read_index, write_index
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.prepare import prepare
from tasks.presence import is_present
from tasks.values import InputSpec, PreparedDataset, RawDataset

CLASSES = ("cat", "dog", "zebra")
LABELS = ((0,), (0, 1), (), (1,), (0, 1, 2), (2,))
CONFIG = DataConfig(kind="manifest", path="labels.csv", multi_label=True)
MakeRaw = Callable[..., RawDataset]


@pytest.fixture
def raw(make_raw: MakeRaw, photographs: dict[str, bytes]) -> RawDataset:
    """Return 24 photographs with none to three labels each."""
    return several(make_raw(photographs))


def several(
    one: RawDataset,
    labels: tuple[tuple[int, ...], ...] = LABELS,
    classes: tuple[str, ...] = CLASSES,
) -> RawDataset:
    records = [
        record._replace(label=labels[i % len(labels)])
        for i, record in enumerate(read_index(one.index))
    ]
    write_index(one.index, records)
    digest = digest_records(classes, records)
    changes = {"classes": classes, "multi_label": True, "digest": digest}
    return one.model_copy(update=changes)


def test_labels_are_written_as_ones_and_zeros(raw: RawDataset, spec: InputSpec, tmp_path: Path):
    prepared = prepare(CONFIG, 0, raw, spec, tmp_path / "cache")
    assert prepared.multi_label
    known = {r.path: r.labels for r in read_index(raw.index)}
    for split in (prepared.train, prepared.val, prepared.test):
        stored = np.load(split.labels)
        records = read_index(split.index)
        assert (stored.dtype, stored.shape) == (np.uint8, (split.n, 3))
        assert [tuple(np.flatnonzero(row)) for row in stored] == [known[r.path] for r in records]
        assert split.counts == tuple(stored.sum(axis=0))
        assert split.multi_label
    assert prepare(CONFIG, 0, raw, spec, tmp_path / "cache") == prepared
    assert PreparedDataset.model_validate_json(prepared.model_dump_json()) == prepared


def test_batches_have_float_labels_for_binary_cross_entropy(
    raw: RawDataset, spec: InputSpec, tmp_path: Path
):
    train = prepare(CONFIG, 0, raw, spec, tmp_path / "cache").train
    packed = PackedImages(train)
    order = np.arange(train.n, dtype=np.int64)[::-1].copy()
    labels = [y for _, y in packed.batches(order, 4, torch.device("cpu"))]
    assert {(y.dtype, y.shape[1]) for y in labels} == {(torch.float32, 3)}
    assert np.array_equal(torch.cat(labels).numpy(), np.load(train.labels)[::-1])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.zeros(train.n, 3), torch.cat(labels)
    )
    assert loss.item() == pytest.approx(np.log(2))


def test_one_label_each_is_another_pack_than_one_label(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
):
    one = make_raw(photographs)
    single = prepare(DataConfig(path="images"), 0, one, spec, tmp_path / "cache")
    apart = several(one, tuple(r.labels for r in read_index(one.index)), one.classes)
    prepared = prepare(CONFIG, 0, apart, spec, tmp_path / "cache")
    assert not single.multi_label
    assert single.train.digest != prepared.train.digest
    assert single.digest != prepared.digest
    assert np.load(single.train.labels).shape == (single.train.n,)


def test_cut_off_labels_are_missed(raw: RawDataset, spec: InputSpec, tmp_path: Path):
    prepared = prepare(CONFIG, 0, raw, spec, tmp_path / "cache")
    assert is_present(prepared)
    np.save(prepared.test.labels, np.load(prepared.test.labels)[:, 0])
    assert not is_present(prepared)


def test_a_label_whose_every_image_is_bad_is_refused(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
):
    bad = {"cats/bad.png": b"no image"}
    raw = make_raw(photographs | bad)
    records = [
        r._replace(label=(0, 2) if r.path in bad else (i % 2,))
        for i, r in enumerate(read_index(raw.index))
    ]
    write_index(raw.index, records)
    raw = raw.model_copy(update={"classes": CLASSES, "multi_label": True})
    skip = CONFIG.model_copy(update={"on_bad_image": "skip"})
    with pytest.raises(DataError, match="No readable image is left of class 'zebra' in train"):
        prepare(skip, 0, raw, spec, tmp_path / "cache")


def test_few_images_of_a_label_are_told(raw: RawDataset, spec: InputSpec, tmp_path: Path):
    warnings = prepare(CONFIG, 0, raw, spec, tmp_path / "cache").warnings
    assert any(w.startswith("Class 'zebra' has only") for w in warnings)
