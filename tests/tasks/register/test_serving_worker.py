from __future__ import annotations

import threading
from collections.abc import Sequence

import pandas as pd
import pytest
import torch
from torch import Tensor

from tasks.pretrained.tiny import GraftTiny
from tasks.register.classifier import Classifier
from tasks.register.serving_worker import Worker
from tasks.values import InputSpec

SPEC = InputSpec(resize=16, crop=16, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear")


class Held(Classifier):
    """A classifier that writes down its batches, and lets none through before it may."""

    def __init__(self) -> None:
        super().__init__(GraftTiny(3), ("blue", "green", "red"), SPEC)
        self.batches: list[list[int]] = []
        self.begun, self.may = threading.Event(), threading.Event()

    def classify(self, batches: Sequence[Tensor]) -> pd.DataFrame:
        self.batches.append([len(batch) for batch in batches])
        self.begun.set()
        self.may.wait(30)
        return super().classify(batches)


class Broken(Held):
    def classify(self, batches: Sequence[Tensor]) -> pd.DataFrame:
        super().classify(batches)
        raise RuntimeError("no kernel")


def images(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 16, 16, 3), dtype=torch.uint8)


def held(worker: Worker, classifier: Held) -> None:
    """Keep the worker busy with one image, so that what comes now waits."""
    worker.submit(classifier, images(1))
    assert classifier.begun.wait(30)


def test_what_waits_is_run_together_and_everyone_gets_his_own_rows():
    worker, classifier = Worker(), Held()
    held(worker, classifier)
    asked = [images(n) for n in (3, 4, 60, 2, 0, 130)]
    promised = [worker.submit(classifier, some) for some in asked]
    classifier.may.set()
    for some, rows in zip(asked, promised, strict=True):
        expected = Classifier.classify(classifier, [some])
        found = rows.result(30).reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, atol=1e-6, rtol=0)
    assert classifier.batches == [[1], [7], [62], [64, 64, 2]]


def test_versions_are_not_mixed_and_their_order_is_kept():
    worker, old, new = Worker(), Held(), Held()
    held(worker, old)
    new.may.set()
    promised = [worker.submit(which, images(1)) for which in (old, new, new, old)]
    old.may.set()
    for rows in promised:
        assert len(rows.result(30)) == 1
    assert (old.batches, new.batches) == ([[1], [1], [1]], [[2]])


def test_a_fault_reaches_those_of_the_batch_and_nobody_else():
    worker, broken, whole = Worker(), Broken(), Held()
    held(worker, broken)
    two = [worker.submit(broken, images(1)) for _ in range(2)]
    after = worker.submit(whole, images(1))
    broken.may.set(), whole.may.set()
    for rows in two:
        with pytest.raises(RuntimeError, match="no kernel"):
            rows.result(30)
    assert len(after.result(30)) == 1


def test_who_has_gone_away_is_left_out():
    worker, classifier = Worker(), Held()
    held(worker, classifier)
    gone, there = (worker.submit(classifier, images(1)) for _ in range(2))
    assert gone.cancel()
    alone = worker.submit(Held(), images(1))
    assert alone.cancel()
    classifier.may.set()
    assert len(there.result(30)) == 1
    assert classifier.batches == [[1], [1]]
