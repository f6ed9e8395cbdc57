"""An epoch under way: what it began with, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Lap:
    """What is counted in an epoch; between two optimiser steps all of it is here."""

    rate: float  # the learning rate at its first step
    orders: Tensor  # the state of the dice that drew the order of its images, before they did
    sums: Tensor  # (2,) on the device: summed loss, number right
    batches: int = 0  # done
    images: int = 0  # done, of all processes
    seconds: float = 0.0  # that its steps took

    @property
    def is_finite(self) -> bool:
        """Tell whether the loss is a number yet; waits for the device."""
        return bool(torch.isfinite(self.sums[0]))

    def as_tree(self) -> dict[str, Any]:
        """Return all of it, for a checkpoint."""
        return dict(vars(self))


def begin_lap(rate: float, orders: torch.Generator, device: torch.device) -> Lap:
    """Return an epoch of which nothing is done; its order is to be drawn from ``orders`` next."""
    exact = torch.float64 if device.type != "mps" else torch.float32  # which has no float64
    return Lap(rate, orders.get_state(), torch.zeros(2, device=device, dtype=exact))


def go_on_with(tree: dict[str, Any], orders: torch.Generator, device: torch.device) -> Lap:
    """Return the epoch that ``as_tree`` was asked of, with ``orders`` as they were before it."""
    lap = Lap(**{**tree, "sums": tree["sums"].to(device)})
    orders.set_state(lap.orders)
    return lap
