"""The order of an epoch's images where they come as a stream of shards, and not from a pack.

Three draws make it: the shards lie end to end in a random order, and each process reads its part of
that line (``deal``); of the shards that are open at once a random one gives the next image
(``interleaved``); and that image takes a place in a buffer, from which a random one leaves
(``through_buffer``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from itertools import accumulate, islice
from random import Random
from typing import NamedTuple, Protocol, TypeVar

import torch

_CHUNK_IMAGES, _CHUNK_BYTES = 64, 1 << 20  # read from a shard before another's turn


class Undecoded(Protocol):
    """An image as it lies in a shard."""

    @property
    def image(self) -> bytes:
        """Return the file."""


Image = TypeVar("Image", bound=Undecoded)


class Limits(NamedTuple):
    """What one process holds of a stream at once."""

    open: int = 8  # shards
    images: int = 8_192  # undecoded, in the buffer ...
    size: int = 256 << 20  # ... and bytes of them


class Piece(NamedTuple):
    """Some successive images of a shard."""

    shard: int  # its position among the training shards
    start: int
    stop: int  # the first image that is not of it


@dataclass(frozen=True)
class StreamOrder:
    """Which images of an epoch each process reads, and the seed of the order that they come in."""

    parts: tuple[tuple[Piece, ...], ...]  # of each process
    images: int  # that each process learns from, at most as many as are in its part
    seed: int

    def __len__(self) -> int:
        """Return how many images all processes learn from."""
        return self.images * len(self.parts)


def deal(
    sizes: Sequence[int], images: int, processes: int, generator: torch.Generator
) -> StreamOrder:
    """Lay shards of ``sizes`` images end to end in a random order; cut the line into equal parts.

    A shard that a cut goes through is read by both processes, each of which takes its own side of
    it: so no image is in two parts, and of all images at most ``processes`` - 1 are in none.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    line = torch.randperm(len(sizes), generator=generator).tolist()
    ends = list(accumulate(sizes[shard] for shard in line))
    share = ends[-1] // processes
    parts = (
        _pieces(line, ends, sizes, process * share, (process + 1) * share)
        for process in range(processes)
    )
    return StreamOrder(tuple(parts), images, seed)


def _pieces(
    line: Sequence[int], ends: Sequence[int], sizes: Sequence[int], start: int, stop: int
) -> tuple[Piece, ...]:
    """Return what of the shards lies on the ``line`` from image ``start`` to image ``stop``."""
    pieces = []
    for place in range(bisect_right(ends, start), len(line)):
        shard, end = line[place], ends[place]
        begin = end - sizes[shard]
        if begin >= stop:
            break
        pieces.append(Piece(shard, max(start, begin) - begin, min(stop, end) - begin))
    return tuple(pieces)


def interleaved(
    streams: Iterable[Callable[[], Iterator[Image]]], at_once: int, random: Random, pool: Executor
) -> Generator[Image, None, None]:
    """Yield the images of all ``streams``, each time from a random one of those that are open.

    ``at_once`` are open; when one ends, the next begins, whose first images are read already. Each
    is read ahead by a task of ``pool``, which needs ``at_once`` + 1 threads. The order depends on
    ``random`` alone.
    """
    coming = (_Ahead(stream(), pool) for stream in streams)
    opened = list(islice(coming, at_once))
    following = next(coming, None)
    try:
        while opened:
            place = random.randrange(len(opened))
            image = next(opened[place], None)
            if image is not None:
                yield image
            elif following is not None:
                opened[place], following = following, next(coming, None)
            else:
                opened.pop(place)
    finally:
        for each in (*opened, *([following] if following is not None else ())):
            each.close()


class _Ahead(Iterator[Image]):
    """A stream of which a thread reads one chunk ahead."""

    def __init__(self, stream: Iterator[Image], pool: Executor) -> None:
        self._stream, self._pool = stream, pool
        self._chunk: Iterator[Image] = iter(())
        self._following: Future[list[Image]] = pool.submit(_chunk, stream)

    def __next__(self) -> Image:
        image = next(self._chunk, None)
        if image is not None:
            return image
        chunk = self._following.result()
        if not chunk:
            raise StopIteration
        self._following = self._pool.submit(_chunk, self._stream)
        self._chunk = iter(chunk)
        return next(self._chunk)

    def close(self) -> None:
        """Wait for the thread, and let the stream close its file."""
        wait([self._following])
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


def _chunk(stream: Iterator[Image]) -> list[Image]:
    chunk: list[Image] = []
    size = 0
    for image in stream:
        chunk.append(image)
        size += len(image.image)
        if len(chunk) == _CHUNK_IMAGES or size >= _CHUNK_BYTES:
            break
    return chunk


def through_buffer(images: Iterable[Image], random: Random, limits: Limits) -> Iterator[Image]:
    """Yield ``images`` from random places of a buffer that is kept full while there are any.

    It holds ``limits.images`` at most, and ``limits.size`` bytes beside the last that came.
    """
    waiting: list[Image] = []
    size = 0
    for image in images:
        waiting.append(image)
        size += len(image.image)
        while len(waiting) > limits.images or size > limits.size:
            leaving = _taken(waiting, random)
            size -= len(leaving.image)
            yield leaving
    while waiting:
        yield _taken(waiting, random)


def _taken(waiting: list[Image], random: Random) -> Image:
    place = random.randrange(len(waiting))
    waiting[place], waiting[-1] = waiting[-1], waiting[place]
    return waiting.pop()
