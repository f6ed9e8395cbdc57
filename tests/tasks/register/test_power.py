"""Regions, sizes and power: against sums over tables, and 1,000 null retrains a rule."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import binom, norm

from tasks.evaluationconfig import PromotionConfig
from tasks.register.gate import Contender, decide
from tasks.register.paired import enough_draws, mcnemar_exact, non_inferiority_exact
from tasks.register.power import (
    chance,
    detectable,
    detectable_resampled,
    non_inferior_wins,
    size,
    superior_wins,
)

ALPHA = 0.05
LEVEL = ALPHA / 2
RETRAINS = 1000
# 1,000 retrains at a rate of 2.5% or less come to more than 40 with a chance of 1 in 500
MOST = int(binom.isf(0.002, RETRAINS, LEVEL))


@pytest.mark.parametrize("alpha", [0.05, 0.0625, 0.2])
def test_the_region_of_superiority_is_mcnemars_p_value(alpha):
    least = superior_wins(40, alpha)
    for m in range(41):
        for wins in range(m + 1):
            shown = mcnemar_exact(wins, m - wins) < alpha and 2 * wins > m
            assert shown == (wins >= least[m])


@pytest.mark.parametrize(("n", "margin"), [(25, 0.1), (60, 0.05)])
def test_the_region_of_non_inferiority_is_the_exact_p_value(n, margin):
    least = non_inferior_wins(n, margin, LEVEL)
    for m in range(n // 5, n + 1, n // 5):
        inside, outside = (
            non_inferiority_exact(wins, m - wins, n, margin) for wins in (least[m], least[m] - 1)
        )
        assert inside < LEVEL
        assert outside > LEVEL - 2e-4  # the critical value's rounding


def by_tables(least: np.ndarray, gain: float, share: float) -> float:
    """Sum the multinomial chances of all tables of the region."""
    n = len(least) - 1
    win, loss = (share + gain) / 2, (share - gain) / 2
    return sum(
        comb(n, b) * comb(n - b, c) * win**b * loss**c * (1 - share) ** (n - b - c)
        for b in range(n + 1)
        for c in range(n + 1 - b)
        if b >= least[b + c]
    )


@pytest.mark.parametrize(("gain", "share"), [(0.0, 0.3), (0.15, 0.3), (-0.1, 0.2), (0.2, 0.2)])
def test_chances_are_the_sum_over_all_tables(gain, share):
    for least in (superior_wins(30, ALPHA), non_inferior_wins(30, 0.1, LEVEL)):
        assert chance(least, gain, share) == pytest.approx(by_tables(least, gain, share), abs=1e-9)


def connor(n: int, gain: float, share: float) -> float:
    """The power of McNemar's test by Connor's normal approximation (1987, equation 2)."""
    far = norm.isf(LEVEL) * np.sqrt(share)
    return float(norm.cdf((gain * np.sqrt(n) - far) / np.sqrt(share - gain**2)))


@pytest.mark.parametrize(("n", "gain", "share"), [(2000, 0.02, 0.08), (5000, 0.01, 0.05)])
def test_power_is_near_connors_and_that_of_simulated_tests(n, gain, share):
    exact = chance(superior_wins(n, ALPHA), gain, share)
    assert exact == pytest.approx(connor(n, gain, share), abs=0.03)
    draw = np.random.default_rng(0)
    table = [(share + gain) / 2, (share - gain) / 2, 1 - share]
    wins, losses, _ = draw.multinomial(n, table, 5000).T
    shown = 2 * binom.sf(wins - 1, wins + losses, 0.5) < ALPHA
    assert np.mean(shown) == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 5000))


def test_power_rises_with_the_gain_and_with_the_images():
    for least in (superior_wins(500, ALPHA), non_inferior_wins(500, 0.02, LEVEL)):
        powers = [chance(least, gain, 0.1) for gain in np.linspace(-0.02, 0.1, 7)]
        assert powers == sorted(powers)
        assert powers[0] < 0.05
        assert powers[-1] > 0.99
    sizes = (100, 300, 1000, 3000)
    powers = [chance(superior_wins(n, ALPHA), 0.03, 0.1) for n in sizes]
    assert powers == sorted(powers)
    powers = [chance(non_inferior_wins(n, 0.03, LEVEL), 0.0, 0.1) for n in sizes]
    assert powers == sorted(powers)


def test_the_smallest_detectable_gain_is_detected_in_80_percent():
    for n, share in ((200, 0.1), (2000, 0.05), (200, 0.0)):
        least = superior_wins(n, ALPHA)
        gain = detectable(least, share, 0.0)
        assert gain is not None
        apart = max(share, gain)
        assert chance(least, gain, apart) >= 0.8
        assert chance(least, gain - 0.002, max(share, gain - 0.002)) < 0.8
    assert detectable(superior_wins(5, ALPHA), 0.2, 0.0) is None  # 5 wins of 5: p = 0.0625
    smaller = detectable(superior_wins(8000, ALPHA), 0.1, 0.0)
    assert smaller < detectable(superior_wins(2000, ALPHA), 0.1, 0.0)
    loss = detectable(non_inferior_wins(5000, 0.03, LEVEL), 0.05, -0.03)
    assert -0.03 < loss < 0  # with so many images a small loss passes


def test_the_detectable_gain_of_a_bootstrap_is_that_of_a_normal_figure():
    errors = np.random.default_rng(0).normal(0, 0.01, 200_000)
    expected = (norm.isf(LEVEL) + norm.isf(0.2)) * 0.01
    assert detectable_resampled(errors, LEVEL, 0.0) == pytest.approx(expected, rel=0.02)
    given = detectable_resampled(errors, LEVEL, 0.005)
    assert given == pytest.approx(expected - 0.005, rel=0.05)


@pytest.mark.parametrize(("n", "margin"), [(10, 0.2), (37, 0.05), (200, 0.01), (1000, 0.05)])
def test_no_rule_on_accuracy_exceeds_its_level_at_any_share_of_images_told_apart(n, margin):
    least = non_inferior_wins(n, margin, LEVEL)
    assert size(least, margin) < LEVEL
    shares = np.random.default_rng(n).uniform(margin, 1, 100)
    assert max(chance(least, -margin, share) for share in shares) < LEVEL + 1e-4
    worse = margin + 0.02
    assert max(chance(least, -worse, max(share, worse)) for share in shares) < LEVEL
    better = superior_wins(n, ALPHA)
    assert max(chance(better, 0.0, share) for share in shares) < LEVEL


@pytest.fixture
def null(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the benchmark's simulation, which is imported from the repository's root."""
    monkeypatch.syspath_prepend(str(repository))
    from tests.benchmarks import null_retrains

    return null_retrains


@pytest.mark.parametrize("n", [100, 1000, 10_000])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_of_1000_null_retrains_no_more_are_promoted_than_the_level_allows(null, n, share):
    better = null.counted_promotions(superior_wins(n, ALPHA), 0.0, share, RETRAINS, n)
    assert better <= MOST
    no_worse = null.counted_promotions(
        non_inferior_wins(n, 0.01, LEVEL), -0.01, share, RETRAINS, n + 1
    )
    assert no_worse <= MOST
    equal = null.counted_promotions(non_inferior_wins(n, 0.01, LEVEL), 0.0, share, RETRAINS, n)
    assert equal >= no_worse  # what non-inferiority is for


@pytest.mark.parametrize("metric", ["balanced_accuracy", "log_loss"])
def test_of_1000_null_retrains_a_bootstrap_promotes_no_more_than_its_level_allows(null, metric):
    settings = PromotionConfig(metric=metric, alpha=0.2)  # a bootstrap of 1,000 resamples
    recipe = null.Recipe(n=60, classes=3, rarest=0.4)
    count = null.promotions(recipe, settings, RETRAINS, seed=0)
    assert count <= binom.isf(0.002, RETRAINS, 0.1)
    if metric == "log_loss":
        assert count > 40  # and it is a test, which 1 in 10 pass


def test_what_the_regions_say_is_what_the_gate_does(null):
    names, images = ("a", "b", "c"), tuple(map(str, range(150)))
    rules = {
        "superiority": superior_wins(150, 0.4),
        "non_inferiority": non_inferior_wins(150, 0.02, 0.2),
    }
    promoted = dict.fromkeys(rules, 0)
    for ours, theirs in null.pairs(null.Recipe(n=150, classes=3), -0.1, 20, 0):
        wins = int(np.sum(ours.correct_n & ~theirs.correct_n))
        losses = int(np.sum(~ours.correct_n & theirs.correct_n))
        pair = [Contender(1, names, images=images, scores=scores) for scores in (ours, theirs)]
        for rule, least in rules.items():
            settings = PromotionConfig(rule=rule, alpha=0.4, margin=0.02)
            verdict = decide(*pair, settings, enough_draws(0.4, 0, 0))
            assert verdict.promoted == (wins >= least[wins + losses])
            promoted[rule] += verdict.promoted
    assert 0 < promoted["superiority"] < promoted["non_inferiority"] <= 20


def test_the_power_of_a_bootstrap_is_that_of_a_normal_test(null):
    """Of the log loss, a mean: the gain over its standard error is nearly normal."""
    recipe, gain = null.Recipe(n=200, classes=3), -0.08  # less than no handicap
    settings = PromotionConfig(metric="log_loss", alpha=0.2)
    shown = null.promotions(recipe, settings, 300, 1, gain) / 300
    large = replace(recipe, n=100_000)
    ours, theirs = next(null.pairs(large, gain, 1, 2))
    gains = theirs.log_losses_n - ours.log_losses_n
    expected = norm.sf(norm.isf(0.1) - gains.mean() / gains.std() * np.sqrt(recipe.n))
    assert 0.2 < expected < 0.95
    assert shown == pytest.approx(expected, abs=3.3 * np.sqrt(0.25 / 300))
