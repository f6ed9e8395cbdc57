"""Training images straight from shards: read, mixed, decoded and cut anew each epoch.

Nothing of the images is kept: memory is bounded by ``Limits`` and by what is decoded ahead, however
many images there are; the index takes a line a shard.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice, takewhile
from random import Random
from threading import Event

import numpy as np
import torch

from tasks.config import DataConfig
from tasks.download.shard_samples import read_samples
from tasks.download.shards import read_index_file
from tasks.errors import ConfigError, DataError
from tasks.memory import return_fragments
from tasks.preprocess.batches import Batch, images_an_epoch, moved, one_ahead
from tasks.preprocess.layouts import Layout, row_of
from tasks.preprocess.stream_decode import Encoded, Row, Unusable, decoded
from tasks.preprocess.stream_order import (
    Limits,
    Piece,
    StreamOrder,
    deal,
    interleaved,
    through_buffer,
)
from tasks.splitvalues import Shard, ShardIndex, StreamedSplit
from tasks.values import InputSpec

_PLAIN = Limits()


class StreamedImages:
    """The training split as a stream.

    ``left_out`` counts the images of the epoch at hand that cannot be used, ``example`` is one.
    """

    def __init__(
        self, split: StreamedSplit, spec: InputSpec, data: DataConfig, limits: Limits = _PLAIN
    ) -> None:
        self._split, self._data, self._limits = split, data, limits
        index = read_index_of(split)
        self._classes = index.classes
        self._shards = training_shards(index)
        layout = Layout(split.height, split.width, split.native)
        self._view = partial(row_of, layout=layout, spec=spec)
        self.left_out, self.example = 0, ""

    def images_an_epoch(self, batch_size: int, processes: int) -> int:
        """Return how many images an epoch uses, of all processes, which use equally many.

        ``batch_size`` is of all of them. As of a pack, a last batch of one image is left out.
        """
        share = self._split.n // processes
        return images_an_epoch(share, batch_size // processes) * processes

    def order(self, batch_size: int, processes: int, generator: torch.Generator) -> StreamOrder:
        """Deal the images of one epoch; raises ``ConfigError`` for more processes than shards."""
        refuse_processes(len(self._shards), processes)
        images = self.images_an_epoch(batch_size, processes) // processes
        return deal([shard.images for shard in self._shards], images, processes, generator)

    def batches(
        self, order: StreamOrder, own: int, batch_size: int, device: torch.device, skip: int = 0
    ) -> Iterator[Batch]:
        """Yield process ``own``'s images in batches on ``device``, reading one ahead in a thread.

        The images of the first ``skip`` batches are read past, and decoded only where a bad one is
        left out: what comes after them depends on how many of them are.

        An image that cannot be used and is left out (``data.on_bad_image=skip``) is replaced by one
        that the process has had already, so that all processes have equally many batches. Raises
        ``DataError`` for an image that is not left out, for fewer usable ones than it takes to
        replace the others once, and as ``read_samples`` does.
        """
        pin = device.type == "cuda"
        sizes = _sizes(order.images, batch_size)
        rows = self._rows(order, own, sum(sizes[:skip]))
        return moved(one_ahead(sizes[skip:], lambda size: _batch(rows, size, pin)), device)

    def first(
        self, most: int, batch_size: int, generator: torch.Generator, device: torch.device
    ) -> Iterator[Batch]:
        """Yield the first ``most`` images of an epoch, or all, in batches; as ``batches`` raises.

        They are of a few shards, as a stream's first images are, and the same in every process.
        Where one image would be left for a last batch, the batch before takes it.
        """
        order = self.order(batch_size, 1, generator)
        order = replace(order, images=min(most, self._split.n))
        return self.batches(order, 0, batch_size, device)

    def _rows(self, order: StreamOrder, own: int, skip: int) -> Iterator[Row]:
        share = sum(piece.stop - piece.start for piece in order.parts[own])
        self.left_out = 0
        used = taken = skip if self._data.on_bad_image == "fail" else 0
        enough = Event()
        with closing(self._images(order, own, enough)) as images:
            deque(islice(images, used), maxlen=0)
            for each in decoded(images, order.images - used, self._view, decoding_threads()):
                taken += 1
                if not isinstance(each, Row):
                    self._leave_out(each, first=taken <= share)
                    continue
                used += 1
                if used == order.images and taken <= share:  # beyond, all have been read already
                    enough.set()
                    deque(images, maxlen=0)
                if used > skip:
                    yield each
        if used < order.images:
            raise DataError(
                f"Of {share:,} training images only {used // 2:,} can be used: {self.example}.\n"
                "Write the shards anew."
            )

    def _leave_out(self, bad: Unusable, first: bool) -> None:
        """Count an image that cannot be used, the ``first`` time that it comes, or raise."""
        if self._data.on_bad_image == "fail":
            raise DataError(
                f"A training image cannot be used: {bad}.\n"
                "Set data.on_bad_image=skip to leave such images out, or write the shards anew."
            )
        self.left_out += first
        self.example = self.example or str(bad)

    def _images(
        self, order: StreamOrder, own: int, enough: Event
    ) -> Generator[Encoded, None, None]:
        """Yield a process's images in their order; where bad ones are replaced, once more.

        Once there are ``enough``, no further shard is begun; those that were are read to their
        ends, where they are held to their digests.
        """
        random = Random(f"{order.seed} {own}")  # noqa: S311 - nothing secret
        limits, pieces = self._limits, order.parts[own]
        for _ in range(2 if self._data.on_bad_image == "skip" else 1):
            begun = takewhile(lambda _: not enough.is_set(), pieces)
            streams = (partial(self._piece, piece) for piece in begun)
            with (
                ThreadPoolExecutor(limits.open + 1) as pool,
                closing(interleaved(streams, limits.open, random, pool)) as mixed,
            ):
                yield from through_buffer(mixed, random, limits)
            if enough.is_set():
                return

    def _piece(self, piece: Piece) -> Iterator[Encoded]:
        shard, timeout = self._shards[piece.shard], self._data.timeout_seconds
        samples = read_samples(self._split.url, shard, self._classes, timeout)
        for number, sample in enumerate(samples):  # to the end: there its digest is looked at
            if piece.start <= number < piece.stop:
                yield Encoded(shard.name, sample.key, sample.label, sample.image)
        return_fragments()


def read_index_of(split: StreamedSplit) -> ShardIndex:
    """Return what is in a split's folder of shards; raises ``DataError``."""
    return read_index_file(split.shards)


def training_shards(index: ShardIndex) -> list[Shard]:
    """Return the shards of the training images, in the index's order."""
    return [shard for shard in index.shards if shard.split == "train"]


def refuse_processes(shards: int, processes: int) -> None:
    """Raise ``ConfigError`` where there are fewer training shards than processes that read them."""
    if processes > shards:
        raise ConfigError(
            f"{processes} processes need as many training shards or more, and there are {shards}.\n"
            f"Set training.devices={shards} or less, or write smaller shards."
        )


def decoding_threads() -> int:
    """Return how many threads decode: torch's number of them, which ``training.threads`` sets.

    At most this process's share of the processors that are open to it, by affinity or a container's
    limit: the processes of a machine share them, and torch of a GPU's knows nothing of the others.
    """
    from joblib import cpu_count

    share: int = cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(torch.get_num_threads(), share))


def _sizes(images: int, batch_size: int) -> list[int]:
    """Return the sizes of batches; of one image none is, unless there is no other way.

    Batch norm has no variance over one value.
    """
    sizes = [min(batch_size, images - start) for start in range(0, images, batch_size)]
    if len(sizes) > 1 and sizes[-1] == 1 and batch_size > 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


def _batch(rows: Iterator[Row], size: int, pin: bool) -> Batch:
    taken = list(islice(rows, size))
    images_bhwc = torch.from_numpy(np.stack([row.pixels for row in taken]))
    labels_b = torch.tensor([row.label for row in taken], dtype=torch.int64)
    return (images_bhwc.pin_memory(), labels_b.pin_memory()) if pin else (images_bhwc, labels_b)
