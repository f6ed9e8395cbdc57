"""What an epoch is fed with: images or cached features, in batches that know their share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from tasks.finetune.ranks import rank, world
from tasks.preprocess.batches import Batch, Order, balanced, images_an_epoch, shuffled
from tasks.recipe import TrainingConfig


class Packed(Protocol):
    """A split on disk: ``PackedImages`` or ``PackedFeatures``."""

    labels_n: np.ndarray

    def batches(self, order: Order, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Yield the rows of ``order`` in batches."""


@dataclass(frozen=True)
class Share:
    """A batch's part in its optimiser step."""

    weight: float  # of its mean loss in the step's; of all processes' gradients the mean is taken
    last: bool  # the optimiser moves after it


class Inputs:
    """The training split as one process sees it."""

    def __init__(self, packed: Packed, recipe: TrainingConfig) -> None:
        self._packed = packed
        self._recipe = recipe

    def order(self, generator: torch.Generator) -> Order:
        """Return the rows of one epoch, of all processes, in a new random order."""
        labels, size = self._packed.labels_n, self._recipe.batch_size
        if self._recipe.balance == "sampler":
            return balanced(labels, size, generator)[: self.images]
        return shuffled(len(labels), size, generator)[: self.images]

    @property
    def images(self) -> int:
        """How many images an epoch uses: of a last batch each process needs two."""
        n, size = len(self._packed.labels_n), self._recipe.batch_size
        usable = images_an_epoch(n, size)
        rest = usable % size
        return usable - rest if world() > 1 and rest < 2 * world() else usable

    @property
    def batches_an_epoch(self) -> int:
        """How many batches an epoch has."""
        return -(-self.images // self._recipe.batch_size)

    @property
    def steps_an_epoch(self) -> int:
        """How many times an epoch moves the optimiser."""
        return -(-self.batches_an_epoch // self._recipe.accumulate)

    def batches(self, order: Order, device: torch.device) -> Iterator[tuple[Batch, Share]]:
        """Yield this process's part of every batch of ``order``, with its share in the step."""
        size, own = self._recipe.batch_size, rank()
        starts = range(0, len(order), size)
        local = np.concatenate([order[start : start + size][own :: world()] for start in starts])
        packed = self._packed.batches(local, size // world(), device)
        for number, batch in enumerate(packed, start=1):
            last = number % self._recipe.accumulate == 0 or number == len(starts)
            yield batch, Share(len(batch[1]) * world() / self._step_images(number, order), last)

    def _step_images(self, number: int, order: Order) -> int:
        """Return how many images the optimiser step of batch ``number`` joins."""
        span = self._recipe.batch_size * self._recipe.accumulate
        first = (number - 1) // self._recipe.accumulate * span
        return min(len(order) - first, span)
