"""The interval of a difference against published figures, and its error rate counted exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, fisher_exact, norm

from tasks.evaluate.two_accuracies import accuracy_difference, detectable_loss


@pytest.mark.parametrize(  # Newcombe 1998, Stat. Med. 17:873, table II, method 10, at 95%
    ("right", "n", "right_other", "n_other", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (10, 10, 0, 20, 0.6791, 1.0),
    ],
)
def test_the_interval_is_newcombes(right, n, right_other, n_other, low, high):
    found = accuracy_difference(right_other, n_other, right, n, alpha=0.025)
    assert found.value == pytest.approx(right / n - right_other / n_other)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def alarm_rate(before: float, now: float, n: int, m: int, margin: float, alpha: float) -> float:
    """Return the chance of an alert, summed over every pair of outcomes."""
    rights, p_rights = np.arange(n + 1), binom.pmf(np.arange(n + 1), n, before)
    chance = 0.0
    for right, p in zip(rights[p_rights > 1e-9], p_rights[p_rights > 1e-9], strict=True):
        # alerts are for all counts up to a greatest one: found by halving
        low, high = -1, m
        while low < high:
            middle = (low + high + 1) // 2
            alert = accuracy_difference(int(right), n, middle, m, alpha).high < -margin
            low, high = (middle, high) if alert else (low, middle - 1)
        chance += p * binom.cdf(low, m, now)
    return float(chance)


@pytest.mark.parametrize(("before", "n", "m"), [(0.9, 100, 60), (0.75, 60, 100)])
def test_alerts_at_the_margin_are_about_as_many_as_alpha_and_without_a_change_fewer(before, n, m):
    margin, alpha = 0.05, 0.05
    at_margin = alarm_rate(before, before - margin, n, m, margin, alpha)
    assert 0.02 < at_margin < 0.062
    assert alarm_rate(before, before, n, m, margin, alpha) < 0.4 * at_margin


def test_without_a_margin_it_agrees_with_fishers_test_where_that_is_clear():
    for right, alert in ((50, True), (93, False)):
        found = accuracy_difference(95, 100, right, 100, alpha=0.01)
        p = fisher_exact([[right, 100 - right], [95, 5]], alternative="less").pvalue
        assert (found.high < 0) == alert == (p < 0.01)


def test_the_detectable_loss_is_the_one_that_is_seen_in_four_of_five_cases():
    loss = detectable_loss(0.9, 200, 150, margin=0.02, alpha=0.05)
    assert alarm_rate(0.9, 0.9 - loss, 200, 150, 0.02, 0.05) == pytest.approx(0.8, abs=0.05)
    many = detectable_loss(0.9, 10**9, 10**9, margin=0.02, alpha=0.05)
    assert many == pytest.approx(0.02, abs=1e-4)
    assert detectable_loss(0.03, 20, 20, margin=0.02, alpha=0.05) == 0.03


def test_it_is_the_normal_approximation_of_a_large_sample():
    found = accuracy_difference(9000, 10_000, 8900, 10_000, alpha=0.05)
    spread = np.sqrt(0.9 * 0.1 / 1e4 + 0.89 * 0.11 / 1e4)
    assert found.high == pytest.approx(-0.01 + norm.isf(0.05) * spread, abs=1e-4)
