"""The range test finds where steps stop to be stable, and suggests what fastai does."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tasks.finetune.lr_range import HIGHEST, LOWEST, STEPS, LrRange, steep, sweep, valley


class Quadratic:
    """Gradient descent on half of w'Aw, with a little noise in the gradient, as batches have."""

    def __init__(self, curvatures, noise: float = 0.0) -> None:
        self._curvatures = np.asarray(curvatures, dtype=float)
        self._weights = np.full(len(self._curvatures), 1.0)
        self._noise = noise * np.random.default_rng(0).standard_normal((STEPS, len(curvatures)))
        self._count = 0

    def step(self, rate: float) -> float:
        loss = float((self._curvatures * self._weights**2).sum()) / 2
        gradient = self._curvatures * self._weights + self._noise[self._count]
        self._weights = self._weights - rate * gradient
        self._count += 1
        return loss


@pytest.mark.parametrize("curvature", [0.5, 3.0, 200.0, 4e4])
def test_the_loss_rises_first_after_the_largest_stable_rate(curvature: float):
    found = sweep(Quadratic([curvature]).step)
    rises = [i for i in range(1, len(found.losses)) if found.losses[i] > found.losses[i - 1]]
    limit = 2 / curvature  # |1 - rate * curvature| < 1
    assert found.rates[rises[0] - 2] < limit < found.rates[rises[0] - 1]


@pytest.mark.parametrize("largest", [30.0, 1e3, 1e5])
def test_the_test_stops_soon_after_the_largest_stable_rate(largest: float):
    found = sweep(Quadratic(np.geomspace(largest / 100, largest, 20), noise=0.3).step)
    limit = 2 / largest
    assert limit < found.stopped_at < 20 * limit
    assert steep(*found.telling) < limit
    assert valley(*found.telling) < limit


def test_rates_grow_by_one_factor_and_the_smoothed_loss_is_the_debiased_average():
    given = iter(np.random.default_rng(0).uniform(1, 2, STEPS).tolist())
    seen: list[float] = []
    found = sweep(lambda rate: seen.append(rate) or next(given))
    assert found.stopped_at is None
    assert found.rates == tuple(seen)
    assert (len(seen), seen[0], seen[-1]) == (STEPS, LOWEST, pytest.approx(HIGHEST))
    assert np.diff(np.log(seen)) == pytest.approx(math.log(HIGHEST / LOWEST) / (STEPS - 1))
    for n in (1, 2, 50, STEPS):
        weights = 0.98 ** np.arange(n)[::-1]
        expected = (weights * found.losses[:n]).sum() / weights.sum()
        assert found.smoothed[n - 1] == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_it(bad: float):
    losses = iter([2.0, 1.0, bad, 1.0])
    found = sweep(lambda _: next(losses))
    assert found.losses == (2.0, 1.0)
    assert found.stopped_at == pytest.approx(LOWEST * (HIGHEST / LOWEST) ** (2 / (STEPS - 1)))


def test_suggestions_pass_over_the_first_tenth_and_the_last_five():
    values = tuple(float(i) for i in range(STEPS))
    rates, losses = LrRange(values, values, values, None).telling
    assert (rates[0], rates[-1], losses) == (10, STEPS - 6, rates)
    assert LrRange(values[:12], values[:12], values[:12], 11.0).telling == ((), ())
    assert LrRange((), (), (), 0.0).telling == ((), ())


def longest_falls(losses: list[float]) -> list[int]:
    """Return the length of the longest falling subsequence up to each place, by trying all."""
    best = [1] * len(losses)
    for size in range(2, len(losses) + 1):
        for places in itertools.combinations(range(len(losses)), size):
            values = [losses[i] for i in places]
            if all(a > b for a, b in itertools.pairwise(values)):
                best[places[-1]] = size
    return best


def test_valley_is_half_way_down_the_longest_fall():
    rng = np.random.default_rng(0)
    for _ in range(30):
        n = int(rng.integers(1, 11))
        losses = rng.integers(0, 8, n).astype(float).tolist()  # with ties
        lengths = longest_falls(losses)
        end = lengths.index(max(lengths))
        third = lengths[end] / 3
        place = max(end - lengths[end] + int(third) + int(third / 2), 0)
        assert valley([float(i) for i in range(n)], losses) == place, losses


def test_valley_and_steep_of_a_curve_that_is_known():
    # flat, a fall of 30 steps whose steepest is its 20th, a rise
    fall = np.cumsum([0.01 * (10 - abs(i - 19) / 2) for i in range(30)])
    losses = [5.0] * 20 + (5 - fall).tolist() + [6.0] * 10
    rates = np.geomspace(1e-6, 1, len(losses)).tolist()
    assert steep(rates, losses) == rates[19 + 19]  # the move from there to the next is the largest
    assert valley(rates, losses) == rates[49 - 31 + 10 + 5]  # the first flat step counts as well


def test_the_test_stops_when_the_smoothed_loss_is_four_times_its_lowest():
    given = [2.0] * 10 + [1.0] * 20 + [20.0] * 70
    losses = iter(given)
    found = sweep(lambda _: next(losses))

    def smoothed(n: int) -> float:
        return np.average(given[:n], weights=0.98 ** np.arange(n)[::-1])

    n = next(
        n for n in range(1, 101) if smoothed(n) > 4 * min(smoothed(m) for m in range(1, n + 1))
    )
    assert 31 < n < 60
    assert (len(found.rates), found.stopped_at) == (n, found.rates[-1])
