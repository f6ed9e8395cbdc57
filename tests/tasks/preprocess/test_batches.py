"""Balanced sampling against its expectation, and what a GPU is asked for."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tasks.preprocess import batches
from tasks.preprocess.batches import balanced, images_an_epoch, moved, read_rows
from tasks.storedrows import StoredRows

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


class Stream:
    """Stands for a GPU's: there is none."""

    made: list[int]

    def __init__(self, gpu: int = -1) -> None:
        if gpu >= 0:
            self.made.append(gpu)

    def record_event(self) -> None: ...

    def wait_event(self, event: None) -> None: ...


class Rows:
    """Stands for a tensor in pinned memory."""

    device = torch.device("cuda", 0)

    def to(self, device: torch.device, non_blocking: bool) -> Rows:
        assert non_blocking
        return self

    def record_stream(self, stream: Stream) -> None: ...


def test_a_gpu_has_one_stream_for_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of epochs: a stream's memory is of no use to another."""
    batches._copy_stream.cache_clear()
    monkeypatch.setattr(Stream, "made", [], raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for place in ("cuda", "cuda:0", "cuda:1", "cuda"):
        rows = [(Rows(), Rows()) for _ in range(3)]
        assert list(moved(iter(rows), torch.device(place))) == rows
    assert Stream.made == [1, 0]
    batches._copy_stream.cache_clear()


@pytest.mark.parametrize("side", [5, 120])  # px: small rows, and large ones
@pytest.mark.parametrize("kind", [torch.uint8, torch.bfloat16, torch.float32])
def test_pinned_rows_are_those_that_are_not(tmp_path: Path, monkeypatch, side: int, kind) -> None:
    stored = {torch.uint8: np.uint8, torch.bfloat16: np.uint16, torch.float32: np.float32}[kind]
    values = torch.randn(6, side, side, 2, generator=seeded()).mul(50).to(kind)
    (tmp_path / "rows").write_bytes(values.view(torch.uint8).numpy().tobytes())
    rows = StoredRows(tmp_path / "rows", stored, tuple(values.shape))
    empty, pinned = torch.empty, []

    def made(shape, dtype, pin_memory) -> torch.Tensor:  # no CPU can pin memory
        pinned.append(pin_memory)
        return empty(shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", made)
    order = np.array([4, 0, 4])
    for pin in (True, False):
        taken = read_rows(rows, order, kind, pin)
        assert taken.dtype == kind
        torch.testing.assert_close(taken, values[order], rtol=0, atol=0)
    assert pinned == [True]
