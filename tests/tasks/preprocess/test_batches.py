"""Balanced sampling against its expectation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tasks.preprocess.batches import balanced, images_an_epoch

SKEWED = np.repeat([0, 1, 3], [900, 90, 11])  # no image of class 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_class_is_drawn_equally_often() -> None:
    order = balanced(SKEWED, 20, seeded())
    counts = np.bincount(SKEWED[order], minlength=4)
    assert counts[2] == 0
    assert chisquare(counts[[0, 1, 3]]).pvalue > 1e-4
    assert order.dtype == np.int64
    within = np.bincount(order[SKEWED[order] == 1], minlength=1001)[900:990]
    assert chisquare(within).pvalue > 1e-4  # and the images of one class equally often


@pytest.mark.parametrize("batch_size", [1, 20, 100, 1001, 2000])
def test_an_epoch_is_as_long_as_without(batch_size: int) -> None:
    assert len(balanced(SKEWED, batch_size, seeded())) == images_an_epoch(1001, batch_size)


def test_an_image_counts_for_the_rarest_of_its_labels() -> None:
    labels = np.zeros((1000, 3), dtype=np.float32)
    labels[:800, 0] = 1
    labels[700:750, 1] = 1  # 50 images, all with label 0 as well
    labels[800:810, 2] = 1  # 10 images; 190 have no label
    rarity = np.full(1000, 1 / 800)
    rarity[700:750], rarity[800:810], rarity[810:] = 1 / 50, 1 / 10, 1 / 190
    drawn = np.bincount(
        np.concatenate([balanced(labels, 10, seeded(seed)) for seed in range(40)]), minlength=1000
    )
    parts = [slice(0, 700), slice(700, 750), slice(750, 800), slice(800, 810), slice(810, 1000)]
    expected = [40_000 * rarity[part].sum() / rarity.sum() for part in parts]
    assert chisquare([drawn[part].sum() for part in parts], expected).pvalue > 1e-4


def test_a_seed_repeats_the_draw() -> None:
    first = balanced(SKEWED, 20, seeded(3))
    assert np.array_equal(first, balanced(SKEWED, 20, seeded(3)))
    assert not np.array_equal(first, balanced(SKEWED, 20, seeded(4)))
