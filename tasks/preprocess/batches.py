"""Batches straight from the packed file: no decoding, no worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tasks.storedrows import StoredRows
from tasks.values import PackedSplit

Order = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]
# images uint8 (b, h, w, 3), labels int64 (b,) or, with several an image, float32 0/1 (b, classes)
Batch = tuple[torch.Tensor, torch.Tensor]
Group = TypeVar("Group")


def read_labels(split: PackedSplit) -> Labels:
    """Return a split's labels: int64 (n,), or multi-label float32 (n, classes) of 0 and 1."""
    labels: npt.NDArray[np.int64] | npt.NDArray[np.uint8] = np.load(split.labels)
    return labels.astype(np.float32) if split.multi_label else labels.astype(np.int64)


class PackedImages:
    """One split, read from a file that the operating system caches."""

    def __init__(self, split: PackedSplit) -> None:
        shape = (split.n, split.height, split.width, 3)
        self._images = StoredRows(split.images, np.uint8, shape)
        self.labels_n: Labels = read_labels(split)

    @property
    def images_nhwc(self) -> npt.NDArray[np.uint8]:
        """All images, through a memory map."""
        return self._images.array

    def read(self, rows: Order, pin: bool) -> Batch:
        """Copy ``rows`` out of the file, into pinned memory for a GPU's asynchronous copies."""
        images_bhwc = read_rows(self._images, rows, torch.uint8, pin)
        labels_b = torch.from_numpy(self.labels_n[rows])
        return images_bhwc, labels_b.pin_memory() if pin else labels_b

    def batches(self, order: Order, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Yield ``order`` in batches on ``device``, reading one batch ahead in a thread."""
        return read_ahead(self.read, order, batch_size, device)


def read_rows(stored: StoredRows, rows: Order, kind: torch.dtype, pin: bool) -> torch.Tensor:
    """Return ``rows`` (b, ...) as a new tensor of type ``kind``, as wide as what is stored.

    Pinned memory is read into straight away: to copy rows there takes longer than to read them.
    """
    if not pin:
        return torch.from_numpy(stored.take(rows)).view(kind)
    taken = torch.empty((len(rows), *stored.row), dtype=kind, pin_memory=True)
    stored.read(rows, taken.view(torch.uint8).numpy())
    return taken


def read_ahead(
    read: Callable[[Order, bool], Batch], order: Order, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """Yield what ``read(rows, pin)`` gives for ``order``, batch by batch, on ``device``.

    One batch is read ahead in a thread, into pinned memory where the device is a GPU.
    """
    pin = device.type == "cuda"
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return moved(one_ahead(groups, lambda rows: read(rows, pin)), device)


def moved(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on ``device``; to a GPU the next one is copied while it computes on this one.

    The copies have a CUDA stream of their own, and each batch an event that the computing stream
    waits for, so that no side waits for more than it needs.
    """
    if device.type != "cuda":
        for inputs, labels in batches:
            yield inputs.to(device), labels.to(device)
        return
    copying = _copy_stream(torch.cuda.current_device() if device.index is None else device.index)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for inputs, labels in batches:
        with torch.cuda.stream(copying):
            batch = (inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True))
        following = (batch, copying.record_event())
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = following
    if waiting is not None:
        yield _arrived(*waiting)


@cache
def _copy_stream(gpu: int) -> torch.cuda.Stream:
    """Return the one stream of a process for copies to a GPU.

    Memory that torch keeps belongs to the stream it was taken on, and another cannot have it.
    """
    return torch.cuda.Stream(gpu)  # type: ignore[no-untyped-call]  # so in torch


def _arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let the computing stream wait for a batch, whose memory then belongs to it."""
    computing = torch.cuda.current_stream(batch[0].device)
    computing.wait_event(copied)
    for tensor in batch:
        tensor.record_stream(computing)
    return batch


def one_ahead(groups: Iterable[Group], read: Callable[[Group], Batch]) -> Iterator[Batch]:
    """Yield what ``read`` gives for each of ``groups``, the next one read in a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting: Future[Batch] | None = None
        for group in groups:
            following = reader.submit(read, group)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def images_an_epoch(n: int, batch_size: int) -> int:
    """Return how many of ``n`` images one epoch uses.

    A last batch of a single image is left out: batch norm has no variance over one value. The
    order is new every epoch, so another image is left out the next time.
    """
    return n - 1 if n % batch_size == 1 and n > 1 and batch_size > 1 else n


def shuffled(n: int, batch_size: int, generator: torch.Generator) -> Order:
    """Return a random order of the rows of one epoch."""
    order: Order = torch.randperm(n, generator=generator).numpy()
    return order[: images_an_epoch(n, batch_size)]


def balanced(labels_n: Labels, batch_size: int, generator: torch.Generator) -> Order:
    """Draw the rows of one epoch with replacement, so that every class is expected equally often.

    As many rows as ``shuffled`` gives. Labels are int64 (n,), or 0 and 1 of shape (n, classes):
    then an image counts for the rarest of its labels, and those without a label are a class of
    their own.
    """
    weights = torch.from_numpy(_rarity(labels_n))
    rows = images_an_epoch(len(labels_n), batch_size)
    order: Order = torch.multinomial(weights, rows, replacement=True, generator=generator).numpy()
    return order


def _rarity(labels_n: Labels) -> npt.NDArray[np.float64]:
    """Return, for each image, one over the number of images of its (rarest) class."""
    if labels_n.ndim == 1:
        rarity: npt.NDArray[np.float64] = 1 / np.bincount(labels_n)[labels_n]
        return rarity
    present_nk = np.column_stack((labels_n > 0, ~(labels_n > 0).any(axis=1)))
    rarest: npt.NDArray[np.float64] = (present_nk / np.maximum(present_nk.sum(axis=0), 1)).max(
        axis=1
    )
    return rarest
