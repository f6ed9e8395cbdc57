"""One thread that runs the network, on the images of every request that waits at that moment."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tasks.register.classifier import BATCH_SIZE, Classifier

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request's images, decoded, and the promise of its rows."""

    classifier: Classifier
    images_nhwc: Tensor  # uint8 (n, crop, crop, 3)
    rows: Future[pd.DataFrame] = field(default_factory=Future)


class Worker:
    """Answers requests in their order; those that wait together go through the network together.

    Nothing is waited for: a request that comes alone is run alone, and what comes meanwhile is
    merged up to ``BATCH_SIZE`` images. Several threads in the network at once would fight for the
    same cores, or take turns on a GPU with an image each.
    """

    def __init__(self) -> None:
        self._queue: deque[Waiting] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="inference", daemon=True).start()

    def submit(self, classifier: Classifier, images_nhwc: Tensor) -> Future[pd.DataFrame]:
        """Promise the rows of ``images_nhwc``, uint8 (n, crop, crop, 3), from this classifier."""
        waiting = Waiting(classifier, images_nhwc)
        with self._changed:
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.rows

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
            # no name here holds what was answered: a version that is replaced has to be freed
            answer(self._next())

    def _next(self) -> list[Waiting]:
        """Take the first request, and those behind it that fit into its batch."""
        with self._changed:
            batch = [self._queue.popleft()]
            size = len(batch[0].images_nhwc)
            while self._queue and self._fits(batch[0], size):
                size += len(self._queue[0].images_nhwc)
                batch.append(self._queue.popleft())
        return batch

    def _fits(self, first: Waiting, size: int) -> bool:
        following = self._queue[0]
        one_version = following.classifier is first.classifier
        return one_version and size + len(following.images_nhwc) <= BATCH_SIZE


def answer(batch: list[Waiting]) -> None:
    """Run one classifier on all images of ``batch`` and give each request its rows, or the error.

    A request that was cancelled meanwhile is left out.
    """
    wanted = [waiting for waiting in batch if waiting.rows.set_running_or_notify_cancel()]
    if not wanted:
        return
    try:
        together_nhwc = torch.cat([waiting.images_nhwc for waiting in wanted])
        frame = wanted[0].classifier.classify(torch.split(together_nhwc, BATCH_SIZE))
    except Exception as error:  # whatever it is, those who wait must hear of it
        for waiting in wanted:
            waiting.rows.set_exception(error)
        return
    start = 0
    for waiting in wanted:
        end = start + len(waiting.images_nhwc)
        waiting.rows.set_result(frame.iloc[start:end])
        start = end
