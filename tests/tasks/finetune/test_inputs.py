"""Batches, steps and shares: the arithmetic of accumulation and of several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.finetune import inputs as module
from tasks.finetune.inputs import RowInputs
from tasks.preprocess.batches import PackedImages
from tasks.recipe import TrainingConfig

CPU = torch.device("cpu")


def shares(prepared, recipe: TrainingConfig, order) -> list[tuple[int, float, bool]]:
    batches = RowInputs(PackedImages(prepared.train), recipe).batches(order, CPU)
    return [(len(labels), share.weight, share.last) for (_, labels), share in batches]


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (2, 2), (3, 2), (9, 1)])
def test_the_shares_of_a_step_are_those_of_its_images(accumulate, steps, prepared):
    recipe = TrainingConfig(batch_size=16, accumulate=accumulate)
    order = np.arange(61)
    assert RowInputs(PackedImages(prepared.train), recipe).steps_an_epoch == steps
    groups, group = [], []
    for images, weight, last in shares(prepared, recipe, order):
        group.append((images, weight))
        if last:
            groups.append(group)
            group = []
    assert group == []
    assert len(groups) == steps
    for found in groups:
        images = sum(n for n, _ in found)
        assert [weight for _, weight in found] == pytest.approx([n / images for n, _ in found])


def test_processes_part_a_batch_among_them(prepared, monkeypatch):
    order = np.random.default_rng(0).permutation(61)[:56]
    seen = []
    monkeypatch.setattr(module, "world", lambda: 4)
    for own in range(4):
        monkeypatch.setattr(module, "rank", lambda own=own: own)
        recipe = TrainingConfig(batch_size=16)
        inputs = RowInputs(PackedImages(prepared.train), recipe)
        batches = list(inputs.batches(order, CPU))
        assert [len(labels) for (_, labels), _ in batches] == [4, 4, 4, 2]
        # gradients are averaged over the processes: n · 4 / 16 of each, a quarter of the sum
        assert [share.weight for _, share in batches] == [1.0, 1.0, 1.0, 1.0]
        seen.append(batches)
    images = PackedImages(prepared.train).images_nhwc
    for number in range(4):
        together = torch.cat([batches[number][0][0] for batches in seen]).numpy()
        whole = images[order[number * 16 : number * 16 + 16]]
        key = [row.tobytes() for row in together]
        assert sorted(key) == sorted(row.tobytes() for row in whole)


def test_a_last_batch_too_small_for_all_processes_is_left_out(prepared, monkeypatch):
    monkeypatch.setattr(module, "world", lambda: 4)
    inputs = RowInputs(
        PackedImages(prepared.train), TrainingConfig(batch_size=28)
    )  # 61 = 2 x 28 + 5
    assert inputs.images == 56
    assert RowInputs(PackedImages(prepared.train), TrainingConfig(batch_size=52)).images == 61


def test_the_sampler_draws_rare_classes_as_often(prepared):
    packed = PackedImages(prepared.train)
    packed.labels_n = np.array([0] * 55 + [1] * 5 + [2])
    recipe = TrainingConfig(batch_size=16, balance="sampler")
    generator = torch.Generator().manual_seed(0)
    orders = [RowInputs(packed, recipe).order(generator) for _ in range(100)]
    counts = np.bincount(packed.labels_n[np.concatenate(orders)], minlength=3)
    assert counts.sum() == 6100
    assert counts / 6100 == pytest.approx([1 / 3] * 3, abs=0.03)
