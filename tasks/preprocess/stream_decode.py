"""Decode a stream of images in threads, in its order, no more of them ahead than are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from tasks.preprocess.decode import UnreadableImage, decode_rgb
from tasks.preprocess.reading import AHEAD, Pixels
from tasks.words import printable

TOGETHER = 8  # images a task of a thread: a tiny one is decoded in less time than a task starts


class Encoded(NamedTuple):
    """An image as it lies in a shard."""

    shard: str
    key: str  # of the image in its shard
    label: int
    image: bytes


class Row(NamedTuple):
    """A decoded image, cut as a pack's, and its label."""

    pixels: Pixels
    label: int


class Unusable(NamedTuple):
    """Where an image is that cannot be used, and why."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        """Return it fit to print."""
        return f"{printable(self.shard)}: {printable(self.key)} ({printable(self.reason)})"


def decoded(
    images: Iterator[Encoded], wanted: int, view: Callable[[Pixels], Pixels], threads: int
) -> Iterator[Row | Unusable]:
    """Yield ``wanted`` rows, in the order of ``images``, and what cannot be used among them.

    Fewer where ``images`` come to an end. Of them no more are taken than may be needed still.
    """
    waiting: deque[Future[list[Row | Unusable]]] = deque()
    done = ahead = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            while done < wanted:
                while (room := min(AHEAD, wanted - done) - ahead) > 0:
                    group = list(islice(images, min(TOGETHER, room)))
                    if not group:
                        break
                    waiting.append(pool.submit(_decode, group, view))
                    ahead += len(group)
                if not waiting:
                    return
                found = waiting.popleft().result()
                ahead -= len(found)
                done += sum(isinstance(each, Row) for each in found)
                yield from found
        finally:
            for future in waiting:
                future.cancel()


def _decode(group: list[Encoded], view: Callable[[Pixels], Pixels]) -> list[Row | Unusable]:
    return [_decode_one(image, view) for image in group]


def _decode_one(image: Encoded, view: Callable[[Pixels], Pixels]) -> Row | Unusable:
    try:
        return Row(view(decode_rgb(image.image)), image.label)
    except UnreadableImage as error:
        return Unusable(image.shard, image.key, str(error))
