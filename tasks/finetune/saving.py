"""Where a training may be broken off, and what is written there for the one that goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tasks.finetune.hold import Hold
from tasks.finetune.keeper import Keeper
from tasks.finetune.lap import Lap
from tasks.finetune.tree_file import Tree

log = logging.getLogger(__name__)


class Saving:
    """Writes how far a phase is: now and then, and before a signal ends the training.

    ``take`` returns how far it is after so many epochs, and within the one that follows. Without a
    keeper nothing is written, and a signal is not waited for.
    """

    def __init__(self, keeper: Keeper | None, take: Callable[[int, Lap | None], Tree]) -> None:
        self._keeper, self._take = keeper, take
        self._hold = Hold()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep signals in this block until they can be obeyed."""
        if self._keeper is None:
            yield
            return
        with self._hold:
            yield

    def after_step(self, epochs: int, lap: Lap) -> None:
        """Write how far the epoch is, where that is due, and end the training, if it is to end."""
        if self._keeper is None:
            return
        if self._hold.asked is not None:
            self._save(epochs, lap)
            self._hold.let_go()
        elif self._keeper.is_due_within and lap.is_finite:
            self._keeper.offer(partial(self._take, epochs, lap))

    @contextmanager
    def validating(self, epochs: int, lap: Lap) -> Iterator[None]:
        """End the training at once in this block: the epoch's steps are done, no weight changes."""
        with self._hold.let_through(partial(self._save, epochs, lap)):
            yield

    def after_epoch(self, epochs: int, over: bool) -> None:
        """Write how far the phase is, but, the training being ``over``, only where it is to end."""
        if self._keeper is None:
            return
        if self._hold.asked is not None:
            self._save(epochs, None)
            self._hold.let_go()
        elif not over:
            self._keeper.offer(partial(self._take, epochs, None))

    def _save(self, epochs: int, lap: Lap | None) -> None:
        """Write how far it is, whatever that takes; not where the loss has ceased to be a number.

        There would be nothing to go on with.
        """
        if self._keeper is None or not (lap is None or lap.is_finite):
            return
        where = "the epoch's end" if lap is None else f"batch {lap.batches} of the epoch"
        log.info("stopping: a checkpoint of %s is written", where)
        self._keeper.write(self._take(epochs, lap))
