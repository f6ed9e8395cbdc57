"""What a paired test can show: its region of rejection, and the chance to land in it.

Of n test images m are told apart: one model alone is right. Of those the new one wins b and loses
m - b. Where the true gain in accuracy is g and the share of images told apart is s, m follows
Binomial(n, s), and b given m follows Binomial(m, (1 + g / s) / 2), so that every chance below is
exact (Connor 1987, Biometrics 43:207). A region is the least number of wins for each m.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Counts: TypeAlias = npt.NDArray[np.int64]
Truths: TypeAlias = npt.NDArray[np.bool_]

POWER = 0.8
SHARES = 200  # of images told apart, at which the size of a test is looked at
NEGLIGIBLE = 1e-12  # of the chance of m, at each end
CLOSE = 1e-4  # how near critical values and gains are found
ROUNDING = 1e-9  # scores as near as that are equal


def score_statistic(wins: Counts, losses: Counts, n: int, gain: float) -> npt.NDArray[np.float64]:
    """Return Tango's score statistic of H0: the true gain is ``gain`` (1998, Stat. Med. 17:891).

    It is (b - c - n g) over its standard deviation, at the likeliest chance of a loss under H0.
    """
    linear = wins + losses + (wins - losses - 2 * n) * gain
    constant = losses * gain * (1 - gain)
    root = np.sqrt(np.maximum(linear * linear + 8 * n * constant, 0.0))
    loss_chance = np.maximum((linear + root) / (4 * n), max(0.0, -gain))
    variance = n * (2 * loss_chance + gain - gain * gain)
    excess = wins - losses - n * gain
    none = variance <= NEGLIGIBLE  # nothing to divide by: any excess is without end
    found: npt.NDArray[np.float64] = excess / np.sqrt(np.where(none, 1.0, variance))
    return np.where(none & (np.abs(excess) > CLOSE), np.copysign(np.inf, excess), found)


def superior_wins(n: int, alpha: float) -> Counts:
    """Return (n + 1,) the least wins of 0 to n images that McNemar's exact test takes for better.

    Better: twice the binomial tail is under ``alpha``; m + 1 where no number of wins is enough.
    """
    from scipy.stats import binom

    def enough(wins: Counts, m: Counts) -> Truths:
        found: Truths = 2 * binom.sf(wins - 1, m, 0.5) < alpha
        return found

    return _least(n, enough)


def wins_from(n: int, gain: float, statistic: float) -> Counts:
    """Return (n + 1,) the least wins of 0 to n images with a score of ``statistic`` or more.

    m + 1 where no number of wins is enough.
    """

    def enough(wins: Counts, m: Counts) -> Truths:
        score = score_statistic(wins, m - wins, n, gain)
        found: Truths = score >= statistic - ROUNDING
        return found

    return _least(n, enough)


def _least(n: int, enough: Callable[[Counts, Counts], Truths]) -> Counts:
    """Return the least wins of 0 to n images that are enough, by halving; more wins are, too."""
    m = np.arange(n + 1)
    low, high = np.zeros_like(m), m + 1
    while np.any(low < high):
        middle = (low + high) // 2
        found = enough(middle, m)
        low, high = np.where(found, low, middle + 1), np.where(found, middle, high)
    return high


def chance(wins_m: Counts, gain: float, share: float) -> float:
    """Return the exact chance of a result in the region ``wins_m``, whose length is n + 1.

    ``gain`` is the true gain in accuracy, ``share`` (at least its size) that of images told apart.
    """
    from scipy.stats import binom

    n = len(wins_m) - 1
    first, last = binom.ppf(NEGLIGIBLE, n, share), binom.isf(NEGLIGIBLE, n, share)
    m = np.arange(int(max(first, 0)), int(last) + 1)
    win_chance = (1 + gain / share) / 2 if share > 0 else 0.5
    tail = binom.sf(wins_m[m] - 1, m, min(max(win_chance, 0.0), 1.0))
    return float(np.sum(binom.pmf(m, n, share) * tail))


def size(wins_m: Counts, margin: float) -> float:
    """Return the greatest chance of the region while the true gain is no more than -``margin``.

    The greatest is at -``margin`` (Sidik 2003, Stat. Med. 22:265), and is looked for over all
    shares of images told apart, spaced evenly in the arc sine of their roots.
    """
    angles = np.linspace(np.arcsin(np.sqrt(margin)), np.pi / 2, SHARES)
    return max(chance(wins_m, -margin, float(share)) for share in np.sin(angles) ** 2)


@lru_cache(maxsize=64)
def _critical(n: int, margin: float, level: float) -> float:
    from scipy.stats import norm

    low, high = 0.0, float(norm.isf(level))
    while size(wins_from(n, -margin, high), margin) >= level:
        low, high = high, 1.02 * high
    while high - low > max(CLOSE, 0.002 * high):
        middle = (low + high) / 2
        if size(wins_from(n, -margin, middle), margin) >= level:
            low = middle
        else:
            high = middle
    return high


def non_inferior_wins(n: int, margin: float, level: float) -> Counts:
    """Return (n + 1,) the least wins that show a gain above -``margin``.

    The region is that of the score statistic whose exact ``size`` is under ``level``.
    """
    return wins_from(n, -margin, _critical(n, margin, level))


def detectable(wins_m: Counts, share: float, lowest: float) -> float | None:
    """Return the smallest true gain, of ``lowest`` or more, shown in 80% of cases; exact.

    ``share`` of the images are told apart, or as many as the gain itself makes so. ``None`` where
    not even a gain of all images would be shown.
    """

    def power(gain: float) -> float:
        return chance(wins_m, gain, max(share, abs(gain)))

    low, high = lowest, 1.0
    if power(high) < POWER:
        return None
    while high - low > CLOSE:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def detectable_resampled(errors_b: npt.NDArray[np.float64], level: float, allowed: float) -> float:
    """Return the smallest true gain shown in 80% of cases, by simulation.

    ``errors_b`` are resampled gains less the one seen. In a world whose test set is off by e, the
    lower bound lies at gain + e + the errors' ``level`` quantile; it must be above -``allowed``.
    """
    bound, worst = np.quantile(errors_b, [level, 1 - POWER])
    return float(-bound - worst - allowed)
