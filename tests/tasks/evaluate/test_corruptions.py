"""Robustness: one sample under every corruption, the same whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.evaluate.corruption_kinds import KINDS
from tasks.evaluate.corruptions import SEVERITIES, robustness
from tasks.preprocess.batches import PackedImages
from tasks.values import PreparedDataset

CPU = torch.device("cpu")


class OnePixel(nn.Module):
    """Takes the brightest channel of one pixel for the class, blue first, and keeps its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images_bchw: Tensor) -> Tensor:
        self.seen.append((images_bchw * 255).round().byte())
        return 20 * images_bchw[:, :, 4, 4].flip(1)


def plain(prepared: PreparedDataset) -> PreparedDataset:
    spec = prepared.input.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    return prepared.model_copy(update={"input": spec})


def test_every_kind_is_scored_on_the_sample_and_beside_it_the_images_as_they_are(prepared):
    network = OnePixel()
    found = robustness(network, prepared.test, plain(prepared).input, CPU, 8, 20, 3)
    conditions = [("none", 0), *((name, s) for name in KINDS for s in SEVERITIES)]
    assert [(row.name, row.severity) for row in found] == conditions
    assert {row.n for row in found} == {20}
    seen = torch.cat(network.seen).unflatten(0, (len(conditions), 20))
    packed = PackedImages(prepared.test).images_nhwc
    as_they_are = seen[0].permute(0, 2, 3, 1).numpy()
    rows = [next(i for i, one in enumerate(packed) if np.array_equal(one, s)) for s in as_they_are]
    assert rows == sorted(set(rows))
    labels = np.load(prepared.test.labels)[rows]
    for row, images in zip(found, seen, strict=True):
        random = torch.Generator().manual_seed(3)
        if row.name != "none":
            corrupt = KINDS[row.name].corrupt
            expected = torch.stack([corrupt(image, row.severity, random) for image in seen[0]])
            assert torch.equal(images, expected)
            assert row.severity == 1 or not torch.equal(images, seen[0])
        chosen = images[:, :, 4, 4].flip(1).float().argmax(dim=1).numpy()
        assert row.accuracy == np.mean(chosen == labels)
    assert len({row.accuracy for row in found}) > 3


def test_neither_batches_nor_runs_change_anything_but_another_seed_does(prepared):
    def run(batch_size: int, seed: int):
        network = OnePixel()
        rows = robustness(network, prepared.test, prepared.input, CPU, batch_size, 12, seed)
        return rows, torch.cat(network.seen)

    (rows, seen), (again, seen_again) = run(12, 3), run(5, 3)
    assert rows == again
    assert torch.equal(seen, seen_again)
    assert not torch.equal(seen, run(12, 4)[1])


def test_more_images_than_there_are_means_all(prepared):
    found = robustness(OnePixel(), prepared.test, prepared.input, CPU, 64, 10_000, 0)
    assert {row.n for row in found} == {prepared.test.n}


def test_images_packed_larger_are_shrunk_before_they_are_corrupted(prepared):
    spec = prepared.input.model_copy(update={"resize": 12, "crop": 8})
    network = OnePixel()
    robustness(network, prepared.test, spec, CPU, 64, 4, 0)
    assert {images.shape for images in network.seen} == {(4, 3, 8, 8)}


def test_several_labels_count_when_all_are_right(prepared, tmp_path):
    labels = np.eye(3, dtype=np.uint8)[np.load(prepared.test.labels)]
    np.save(tmp_path / "labels.npy", labels)
    split = prepared.test.model_copy(
        update={"labels": tmp_path / "labels.npy", "multi_label": True}
    )

    class Each(nn.Module):
        def forward(self, images_bchw: Tensor) -> Tensor:
            means = images_bchw.mean(dim=(2, 3)).flip(1)
            most = means.argmax(dim=1)
            wrong = images_bchw.amin(dim=(1, 2, 3)) == 0  # so that one label too many is given
            logits = torch.full_like(means, -4.0)
            logits[torch.arange(len(most)), most] = 4.0
            logits[wrong, (most[wrong] + 1) % 3] = 4.0
            return logits

    found = robustness(Each(), split, plain(prepared).input, CPU, 16, 33, 0)
    accuracy = {(row.name, row.severity): row.accuracy for row in found}
    darkest = np.fromfile(split.images, np.uint8).reshape(33, -1).min(axis=1)
    assert accuracy["none", 0] == np.mean(darkest > 0)
    assert accuracy["impulse_noise", 5] == 0
    assert accuracy["contrast", 5] == pytest.approx(1)
