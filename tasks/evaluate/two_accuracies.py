"""Two accuracies on different images: how far they are apart, and which change would be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """The second accuracy less the first, with an interval whose two ends err with ``alpha`` each.

    So a one-sided test at level ``alpha`` is whether ``high`` is below the loss that is tolerated.
    """

    value: float
    low: float
    high: float


def accuracy_difference(
    right_before: int, n_before: int, right_now: int, n_now: int, alpha: float
) -> Difference:
    """Return the difference of two independent proportions with Newcombe's hybrid score interval.

    Newcombe 1998, Stat. Med. 17:873, method 10: from the Wilson interval of each. Unlike the test
    of Fisher it is one of a difference, so that a loss can be held against a margin.
    """
    before, before_low, before_high = _wilson(right_before, n_before, alpha)
    now, now_low, now_high = _wilson(right_now, n_now, alpha)
    value = now - before
    return Difference(
        value=value,
        low=value - math.hypot(now - now_low, before_high - before),
        high=value + math.hypot(now_high - now, before - before_low),
    )


def _wilson(right: int, n: int, alpha: float) -> tuple[float, float, float]:
    """Return the share and its score interval (Wilson 1927), each end at ``alpha``."""
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(1 - 2 * alpha, method="wilson")
    return right / n, float(interval.low), float(interval.high)


def detectable_loss(
    accuracy: float, n_before: int, n_now: int, margin: float, alpha: float, power: float = 0.8
) -> float:
    """Return about the loss of accuracy at which the test alerts with a chance of ``power``.

    Normal approximation: the loss d for which d = margin + z_alpha s + z_power s, with s the
    standard error of the difference at the accuracies before and after; at most ``accuracy``.
    """
    from scipy.stats import norm

    far = float(norm.isf(alpha) + norm.ppf(power))
    loss = margin
    for _ in range(100):  # a fixed point: s depends on the loss a little
        after = max(accuracy - loss, 0.0)
        spread = accuracy * (1 - accuracy) / n_before + max(after * (1 - after), 1 / n_now) / n_now
        loss = min(margin + far * math.sqrt(spread), accuracy)
    return loss
