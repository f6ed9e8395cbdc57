"""Where a training is broken off, and what is written there: signals are real ones."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tasks.finetune.lap import Lap, begin_lap
from tasks.finetune.saving import Saving


class Shelf:
    """A keeper that remembers what it is given."""

    def __init__(self) -> None:
        self.is_due_within = True
        self.offered: list[Any] = []
        self.written: list[Any] = []

    def offer(self, snapshot: Callable[[], Any]) -> None:
        self.offered.append(snapshot())

    def write(self, state: object) -> None:
        self.written.append(state)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def lap() -> Lap:
    """Return an epoch of which two batches are done."""
    lap = begin_lap(0.1, torch.Generator(), torch.device("cpu"))
    lap.batches = 2
    return lap


def saving_on(shelf: Shelf | None) -> Saving:
    return Saving(shelf, lambda *taken: taken)


def ends(saving: Saving, step: Callable[[], None], stop: bool = True) -> None:
    """See ``step`` end the training, which is asked for before it, or in it."""

    def work() -> None:
        with saving.open():
            if stop:
                signal.raise_signal(signal.SIGINT)
            step()
            pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_now_and_then_a_step_is_offered_and_every_epoch_that_is_not_the_last(shelf, lap):
    saving = saving_on(shelf)
    with saving.open():
        saving.after_step(3, lap)
        shelf.is_due_within = False
        saving.after_step(3, lap)
        shelf.is_due_within = True
        with saving.validating(3, lap):
            pass
        saving.after_epoch(4, over=False)
        saving.after_epoch(5, over=True)
        lap.sums[0] = torch.nan
        saving.after_step(3, lap)
    assert shelf.offered == [(3, lap), (4, None)]
    assert shelf.written == []


def test_a_stop_in_a_step_is_obeyed_after_it(shelf, lap, caplog):
    saving = saving_on(shelf)
    with caplog.at_level(logging.INFO, "tasks.finetune.saving"):
        ends(saving, lambda: saving.after_step(3, lap))
    assert (shelf.written, shelf.offered) == ([(3, lap)], [])
    assert caplog.messages == ["stopping: a checkpoint of batch 2 of the epoch is written"]
    assert caplog.records[0].name == "tasks.finetune.saving"


@pytest.mark.parametrize("over", [False, True])
def test_a_stop_at_the_end_of_an_epoch_writes_it(shelf, caplog, over):
    saving = saving_on(shelf)
    with caplog.at_level(logging.INFO, "tasks.finetune.saving"):
        ends(saving, lambda: saving.after_epoch(4, over=over))
    assert (shelf.written, shelf.offered) == ([(4, None)], [])
    assert caplog.messages == ["stopping: a checkpoint of the epoch's end is written"]


def test_a_stop_in_validation_is_obeyed_at_once(shelf, lap):
    saving = saving_on(shelf)

    def validate() -> None:
        with saving.validating(3, lap):
            signal.raise_signal(signal.SIGINT)

    ends(saving, validate, stop=False)
    assert (shelf.written, shelf.offered) == ([(3, lap)], [])


def test_a_loss_that_is_no_number_is_not_written(shelf, lap, caplog):
    lap.sums[0] = torch.nan
    saving = saving_on(shelf)
    with caplog.at_level(logging.INFO, "tasks.finetune.saving"):
        ends(saving, lambda: saving.after_step(3, lap))
    assert (shelf.written, shelf.offered, caplog.messages) == ([], [], [])


def test_without_a_keeper_a_signal_is_not_waited_for(lap):
    saving, before = saving_on(None), signal.getsignal(signal.SIGINT)
    with saving.open():
        assert signal.getsignal(signal.SIGINT) is before
        saving.after_step(3, lap)
        with saving.validating(3, lap):
            pass
        saving.after_epoch(4, over=False)
