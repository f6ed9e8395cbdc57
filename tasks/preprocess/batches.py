"""Batches straight from the packed memory map: no decoding, no worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from tasks.values import PackedSplit

Order = npt.NDArray[np.int64]
Batch = tuple[torch.Tensor, torch.Tensor]  # images uint8 (b, h, w, 3), labels int64 (b,)


class PackedImages:
    """One split, read through a memory map that the operating system caches."""

    def __init__(self, split: PackedSplit) -> None:
        shape = (split.n, split.height, split.width, 3)
        self.images_nhwc = np.memmap(split.images, dtype=np.uint8, mode="r", shape=shape)
        self.labels_n: npt.NDArray[np.int64] = np.load(split.labels)

    def read(self, rows: Order, pin: bool) -> Batch:
        """Copy ``rows`` out of the map, into pinned memory for a GPU's asynchronous copies."""
        images_bhwc = torch.from_numpy(self.images_nhwc[rows])
        labels_b = torch.from_numpy(self.labels_n[rows])
        return (images_bhwc.pin_memory(), labels_b.pin_memory()) if pin else (images_bhwc, labels_b)

    def batches(self, order: Order, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Yield ``order`` in batches on ``device``, reading one batch ahead in a thread."""
        pin = device.type == "cuda"
        groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for images_bhwc, labels_b in _one_ahead(groups, lambda rows: self.read(rows, pin)):
            yield (
                images_bhwc.to(device, non_blocking=pin),
                labels_b.to(device, non_blocking=pin),
            )


def _one_ahead(groups: list[Order], read: Callable[[Order], Batch]) -> Iterator[Batch]:
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting: Future[Batch] | None = None
        for rows in groups:
            following = reader.submit(read, rows)
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
