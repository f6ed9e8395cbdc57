"""An epoch under way is written down whole, and its order is drawn again as it was."""

from __future__ import annotations

import pytest
import torch

from tasks.finetune.lap import Lap, begin_lap, go_on_with

CPU, NOWHERE = torch.device("cpu"), torch.device("meta")


def test_an_epoch_begins_with_nothing_done_and_the_dice_before_its_order():
    orders = torch.Generator().manual_seed(5)
    before = orders.get_state()
    lap = begin_lap(0.25, orders, NOWHERE)
    assert (lap.rate, lap.batches, lap.images, lap.seconds) == (0.25, 0, 0, 0.0)
    assert torch.equal(lap.orders, before)
    assert (lap.sums.shape, lap.sums.dtype, lap.sums.device) == ((2,), torch.float64, NOWHERE)
    assert begin_lap(0.25, orders, CPU).sums.tolist() == [0, 0]


def test_sums_are_as_exact_as_the_device_has_numbers(monkeypatch: pytest.MonkeyPatch):
    """Apple's have no float64; without one here, what torch is asked for is looked at."""
    monkeypatch.setattr(torch, "zeros", lambda n, *, device, dtype: (n, device.type, dtype))
    asked = [begin_lap(0.1, torch.Generator(), torch.device(kind)).sums for kind in ("mps", "cuda")]
    assert asked == [(2, "mps", torch.float32), (2, "cuda", torch.float64)]


def test_the_loss_alone_says_whether_it_is_a_number():
    lap = begin_lap(0.1, torch.Generator(), CPU)
    for sums, finite in (([1.0, torch.nan], True), ([torch.nan, 1.0], False)):
        lap.sums[:] = torch.tensor(sums)
        assert lap.is_finite is finite


def test_it_goes_on_with_all_that_was_counted_and_the_same_order():
    orders = torch.Generator().manual_seed(5)
    lap = begin_lap(0.25, orders, CPU)
    order = torch.randperm(50, generator=orders).tolist()
    lap.batches, lap.images, lap.seconds = 3, 60, 1.5
    lap.sums += torch.tensor([2.0, 40.0])
    others = torch.Generator().manual_seed(9)
    again = go_on_with(lap.as_tree(), others, CPU)
    assert isinstance(again, Lap)
    assert again.as_tree().keys() == vars(lap).keys()
    assert (again.rate, again.batches, again.images, again.seconds) == (0.25, 3, 60, 1.5)
    assert again.sums.tolist() == [2.0, 40.0]
    assert torch.randperm(50, generator=others).tolist() == order
    assert go_on_with(lap.as_tree(), others, NOWHERE).sums.device == NOWHERE
