"""The learning rate range test itself, of any step on any problem, and what its losses suggest."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
_SMOOTHING = 0.98  # share of the past in the smoothed loss
_TOO_MUCH = 4.0  # times the lowest smoothed loss
# Steps that suggestions pass over: at first the loss is not smooth yet, at last it may be growing.
_FIRST_LEFT_OUT, _LAST_LEFT_OUT = STEPS // 10, 5


@dataclass(frozen=True)
class LrRange:
    """One step at each rate."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]  # before that step's move
    smoothed: tuple[float, ...]
    stopped_at: float | None  # the last rate that was tried; None if all were

    @property
    def telling(self) -> tuple[Sequence[float], Sequence[float]]:
        """Return the rates and smoothed losses that suggestions look at, as in fastai."""
        part = slice(_FIRST_LEFT_OUT, max(len(self.rates) - _LAST_LEFT_OUT, 0))
        return self.rates[part], self.smoothed[part]


def sweep(step: Callable[[float], float]) -> LrRange:
    """Take a step at each of 100 rates that grow exponentially from 1e-7 to 10.

    The range test of Smith 2017, "Cyclical learning rates for training neural networks", section
    3.3, as fastai's ``LRFinder`` does it (Howard & Gugger 2020). ``step`` is given the rate and
    returns the loss before it moves. The test ends early when a loss is no finite number, or when
    the moving average of the losses is four times its lowest.
    """
    rates, losses, smoothed = list[float](), list[float](), list[float]()
    average, lowest, stopped_at = 0.0, math.inf, None
    for rate in np.geomspace(LOWEST, HIGHEST, STEPS).tolist():
        loss = step(rate)
        if not math.isfinite(loss):
            stopped_at = rate
            break
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(average / (1 - _SMOOTHING ** len(rates)))  # the average began at 0
        lowest = min(lowest, smoothed[-1])
        if smoothed[-1] > _TOO_MUCH * lowest:
            stopped_at = rate
            break
    return LrRange(tuple(rates), tuple(losses), tuple(smoothed), stopped_at)


def steep(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the loss falls fastest along the logarithm of the rate.

    Both are of the same length, at least 2. As fastai's suggestion of this name.
    """
    slopes = np.diff(losses) / np.diff(np.log(rates))
    return rates[int(slopes.argmin())]


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate half way down the longest valley of the losses; at least one is needed.

    The valley is the longest subsequence of falling losses. As fastai's suggestion of this name, by
    ESRI: it takes the valley to begin as many steps before its end as it has, even where some
    between them do not fall, and rounds a third and half of that third down.
    """
    lengths = _falling(losses)
    end = int(np.argmax(lengths))
    third = lengths[end] / 3
    return rates[max(end - lengths[end] + int(third) + int(third / 2), 0)]


def _falling(losses: Sequence[float]) -> list[int]:
    """Return, for each place, the length of the longest falling subsequence that ends there."""
    lengths, lowest_ends = list[int](), list[float]()
    for loss in losses:  # patience sorting, of the losses with their signs changed
        length = bisect_left(lowest_ends, -loss)
        lowest_ends[length : length + 1] = [-loss]
        lengths.append(length + 1)
    return lengths
