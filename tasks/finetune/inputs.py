"""What an epoch is fed with: images or cached features, in batches that know their share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from tasks.errors import ConfigError
from tasks.finetune.ranks import rank, world
from tasks.preprocess.batches import Batch, Order, balanced, images_an_epoch, shuffled
from tasks.preprocess.stream import (
    StreamedImages,
    read_index_of,
    refuse_processes,
    training_shards,
)
from tasks.preprocess.stream_order import StreamOrder
from tasks.recipe import TrainingConfig
from tasks.values import PackedSplit, StreamedSplit

Epoch = TypeVar("Epoch", bound=Sized)  # which images an epoch takes; its length is their number


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


class Inputs(ABC, Generic[Epoch]):
    """The training split as one process sees it."""

    def __init__(self, recipe: TrainingConfig) -> None:
        self._recipe = recipe

    @property
    @abstractmethod
    def images(self) -> int:
        """How many images an epoch uses: of a last batch each process needs two."""

    @abstractmethod
    def order(self, generator: torch.Generator) -> Epoch:
        """Return the images of one epoch, of all processes, in a new random order."""

    @abstractmethod
    def _own(self, order: Epoch, device: torch.device, skip: int) -> Iterator[Batch]:
        """Yield this process's part of every batch of ``order`` after the first ``skip``."""

    @property
    def batches_an_epoch(self) -> int:
        """How many batches an epoch has."""
        return -(-self.images // self._recipe.batch_size)

    @property
    def steps_an_epoch(self) -> int:
        """How many times an epoch moves the optimiser."""
        return -(-self.batches_an_epoch // self._recipe.accumulate)

    def batches(
        self, order: Epoch, device: torch.device, skip: int = 0
    ) -> Iterator[tuple[Batch, Share]]:
        """Yield this process's part of every batch of ``order``, with its share in the step.

        But for the first ``skip`` batches.
        """
        batches = -(-len(order) // self._recipe.batch_size)
        for number, batch in enumerate(self._own(order, device, skip), start=skip + 1):
            last = number % self._recipe.accumulate == 0 or number == batches
            images = self._step_images(number, len(order))
            yield batch, Share(len(batch[1]) * world() / images, last)

    def _step_images(self, number: int, images: int) -> int:
        """Return how many of an epoch's images the optimiser step of batch ``number`` joins."""
        span = self._recipe.batch_size * self._recipe.accumulate
        first = (number - 1) // self._recipe.accumulate * span
        return min(images - first, span)


class RowInputs(Inputs[Order]):
    """Of a split on disk: any row is read as quickly as the next."""

    def __init__(self, packed: Packed, recipe: TrainingConfig) -> None:
        super().__init__(recipe)
        self._packed = packed

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

    def _own(self, order: Order, device: torch.device, skip: int) -> Iterator[Batch]:
        size, own = self._recipe.batch_size, rank()
        starts = range(skip * size, len(order), size)
        parts = [order[start : start + size][own :: world()] for start in starts]
        local = np.concatenate(parts) if parts else order[:0]
        return self._packed.batches(local, size // world(), device)


class StreamInputs(Inputs[StreamOrder]):
    """Of a split that comes as a stream: each process reads a part of the shards."""

    def __init__(self, stream: StreamedImages, recipe: TrainingConfig) -> None:
        super().__init__(recipe)
        self._stream = stream

    def order(self, generator: torch.Generator) -> StreamOrder:
        """Return the images of one epoch, of all processes, in a new random order."""
        return self._stream.order(self._recipe.batch_size, world(), generator)

    @property
    def images(self) -> int:
        """How many images an epoch uses: of a last batch each process needs two."""
        return self._stream.images_an_epoch(self._recipe.batch_size, world())

    def _own(self, order: StreamOrder, device: torch.device, skip: int) -> Iterator[Batch]:
        size = self._recipe.batch_size // world()
        return self._stream.batches(order, rank(), size, device, skip)


def make_inputs(source: Packed | StreamedImages, recipe: TrainingConfig) -> Inputs[Any]:
    """Return the training split as this process sees it, in whatever form it comes."""
    if isinstance(source, StreamedImages):
        return StreamInputs(source, recipe)
    return RowInputs(source, recipe)


def refuse_unstreamed(train: PackedSplit | StreamedSplit, recipe: TrainingConfig) -> None:
    """Raise ``ConfigError`` for what no stream gives: single images, more parts than shards."""
    if not isinstance(train, StreamedSplit):
        return
    if recipe.balance == "sampler":
        raise ConfigError(
            "training.balance=sampler draws single images, and those of data.kind=shards come as a "
            "stream.\nSet training.balance=class_weights."
        )
    refuse_processes(len(training_shards(read_index_of(train))), world())
