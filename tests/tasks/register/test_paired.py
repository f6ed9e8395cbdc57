"""Paired tests against closed forms, numerical likelihoods, scipy's bootstrap and scikit-learn."""

from __future__ import annotations

from math import comb, log, sqrt

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, bootstrap, norm
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from tasks.evaluate.score import Scores
from tasks.evaluationconfig import PromotionConfig
from tasks.register.paired import (
    Draws,
    compare,
    enough_draws,
    mcnemar_exact,
    non_inferiority_exact,
    score_interval,
    strict_level,
    telling_images,
)
from tasks.register.power import detectable_resampled


def closed_form(wins: int, losses: int) -> float:
    """The textbook sum: twice the smaller binomial tail, at most 1."""
    n = wins + losses
    tail = sum(comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**n)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 12, 31])
def test_mcnemars_p_value_is_the_closed_form(n):
    for wins in range(n + 1):
        assert mcnemar_exact(wins, n - wins) == pytest.approx(closed_form(wins, n - wins))


def test_mcnemars_p_value_is_scipys_on_large_counts():
    assert mcnemar_exact(412, 301) == pytest.approx(binomtest(412, 713).pvalue)


def by_likelihood(wins: int, losses: int, n: int, gain: float) -> float:
    """The score statistic with the chance of a loss found by numerical maximum likelihood."""

    def surprise(loss: float) -> float:
        parts = ((wins, loss + gain), (losses, loss), (n - wins - losses, 1 - 2 * loss - gain))
        return -sum(count * log(max(chance, 1e-300)) for count, chance in parts if count)

    bounds = (max(0.0, -gain), (1 - gain) / 2)
    loss = minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
    return (wins - losses - n * gain) / sqrt(n * (2 * loss + gain - gain**2))


@pytest.mark.parametrize(
    ("wins", "losses", "n"), [(1, 12, 44), (5, 5, 50), (0, 3, 32), (7, 0, 30), (140, 90, 1000)]
)
def test_the_score_interval_ends_where_the_likelihood_says(wins, losses, n):
    low, high = score_interval(wins, losses, n, 0.05)
    assert low < (wins - losses) / n < high
    assert by_likelihood(wins, losses, n, low) == pytest.approx(norm.isf(0.025), abs=2e-3)
    assert by_likelihood(wins, losses, n, high) == pytest.approx(-norm.isf(0.025), abs=2e-3)


def test_the_score_interval_at_the_ends():
    assert score_interval(9, 0, 9, 0.05)[1] == 1.0
    assert score_interval(0, 9, 9, 0.05)[0] == -1.0
    low, high = score_interval(0, 0, 100, 0.05)
    assert -low == pytest.approx(high)
    assert 0.02 < high < 0.05  # of 100 images that say nothing, 3.7 points


def by_table(wins: int, losses: int, n: int, margin: float) -> float:
    """Sum the multinomial chances of every table as far out, at 400 chances of a loss."""
    seen = by_likelihood(wins, losses, n, -margin)
    tables = [
        (b, c)
        for b in range(n + 1)
        for c in range(n + 1 - b)
        if by_likelihood(b, c, n, -margin) >= seen - 1e-6
    ]
    greatest = 0.0
    for loss in np.linspace(margin, (1 + margin) / 2, 400):
        win, rest = loss - margin, max(0.0, 1 - 2 * loss + margin)
        chances = (
            comb(n, b) * comb(n - b, c) * win**b * loss**c * rest ** (n - b - c) for b, c in tables
        )
        greatest = max(greatest, sum(chances))
    return greatest


@pytest.mark.parametrize(
    ("wins", "losses", "margin"), [(3, 1, 0.1), (0, 0, 0.15), (2, 4, 0.05), (8, 2, 0.1)]
)
def test_the_exact_p_value_of_non_inferiority_is_the_sum_over_all_tables(wins, losses, margin):
    found = non_inferiority_exact(wins, losses, 14, margin)
    assert found == pytest.approx(by_table(wins, losses, 14, margin), abs=1e-4)


def noisy(seed: int, strength: float, n: int = 120, classes: int = 4) -> Scores:
    """Return a model's scores; those of one seed are of the same images, with errors in common."""
    images = np.random.default_rng(0)
    labels = images.choice(classes, n, p=[0.4, 0.3, 0.2, 0.1])
    own = np.random.default_rng(seed).standard_normal((n, classes))
    logits = images.standard_normal((n, classes)) + 0.5 * own + strength * np.eye(classes)[labels]
    raised = np.exp(logits)
    given = raised / raised.sum(axis=1, keepdims=True)
    return Scores(given, labels, given.argmax(axis=1), 1.0, np.zeros(n))


def brier(scores: Scores, rows: np.ndarray) -> float:
    truth = np.eye(4)[scores.labels_n[rows]]
    return float(np.square(scores.probabilities_nc[rows] - truth).sum(axis=1).mean())


RESAMPLES = 80
PLAIN = {
    "balanced_accuracy": lambda s, i: balanced_accuracy_score(s.labels_n[i], s.predictions_n[i]),
    "macro_f1": lambda s, i: f1_score(s.labels_n[i], s.predictions_n[i], average="macro"),
    "log_loss": lambda s, i: -log_loss(s.labels_n[i], s.probabilities_nc[i], labels=range(4)),
    "brier": lambda s, i: -brier(s, i),
}


@pytest.mark.parametrize("metric", PLAIN)
def test_the_paired_bootstrap_is_scipys(metric):
    ours, theirs = noisy(1, 2.0), noisy(2, 1.8)
    settings = PromotionConfig(metric=metric, alpha=0.5)
    found = compare(ours, theirs, settings, Draws(RESAMPLES, seed=3))

    def gain(rows: np.ndarray) -> float:
        return PLAIN[metric](ours, rows) - PLAIN[metric](theirs, rows)

    whole = np.arange(120)
    same = bootstrap(
        (whole,),
        gain,
        n_resamples=RESAMPLES,
        confidence_level=1 - 2 * found.level,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(3),
    )
    assert found.level == strict_level(0.25, telling_images(ours, theirs, metric))
    figures = [abs(PLAIN[metric](scores, whole)) for scores in (ours, theirs)]
    assert [found.ours, found.theirs] == pytest.approx(figures, abs=1e-6)
    assert found.gain == pytest.approx(gain(whole), abs=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(same.confidence_interval), abs=1e-6)
    share = (1 + np.sum(same.bootstrap_distribution <= 0)) / (RESAMPLES + 1)
    assert found.p_value == pytest.approx(share)
    assert found.shown == (found.low > 0)
    errors = same.bootstrap_distribution - found.gain
    expected = detectable_resampled(errors, found.level, 0.0)
    assert found.detectable == pytest.approx(expected, abs=1e-6)


def test_a_loss_gains_where_it_falls_and_a_margin_is_given_away():
    ours, theirs = noisy(1, 2.6), noisy(2, 1.5)
    draws = enough_draws(0.05, 0, 0)
    for metric in PLAIN:
        better = compare(ours, theirs, PromotionConfig(metric=metric), draws)
        worse = compare(theirs, ours, PromotionConfig(metric=metric), draws)
        assert better.shown
        assert not worse.shown
        assert better.gain == pytest.approx(-worse.gain)
        lenient = PromotionConfig(metric=metric, rule="non_inferiority", margin=0.9)
        assert compare(theirs, ours, lenient, draws).shown


def test_of_one_label_micro_f1_is_tested_as_the_accuracy_that_it_is():
    ours, theirs = noisy(1, 2.0), noisy(2, 1.8)
    draws = enough_draws(0.05, 0, 0)
    micro = compare(ours, theirs, PromotionConfig(metric="micro_f1"), draws)
    plain = compare(ours, theirs, PromotionConfig(metric="accuracy"), draws)
    assert micro.metric == "micro_f1"
    assert (micro.p_value, micro.detectable) == (plain.p_value, plain.detectable)


def test_resamples_reach_far_enough_into_the_tail():
    assert enough_draws(0.05, 1000, 7) == Draws(4000, seed=7)
    assert enough_draws(0.05, 9000, 0).resamples == 9000
    assert enough_draws(0.001, 1000, 0).resamples == 200_000


def test_a_bootstrap_of_few_images_is_held_to_a_stricter_level():
    assert strict_level(0.025, 1.5) == 0.0
    # Student's t with four degrees of freedom and the bootstrap's narrower spread: 2.776 * 1.118
    assert strict_level(0.025, 5) == pytest.approx(norm.sf(2.776445 * sqrt(5 / 4)), rel=1e-5)
    assert strict_level(0.025, 1e6) == pytest.approx(0.025, rel=1e-3)
    levels = [strict_level(0.025, images) for images in (2, 3, 5, 10, 30, 100)]
    assert levels == sorted(levels)


def test_the_images_that_a_gain_rests_on_are_counted():
    labels = np.array([0] * 90 + [1] * 10)
    wrong_a, wrong_b = labels.copy(), labels.copy()
    wrong_a[:6] = 1
    wrong_b[6:12] = 1
    given = np.full((100, 2), 0.5, np.float32)
    ours, theirs = (Scores(given, labels, w, 1.0, np.zeros(100)) for w in (wrong_a, wrong_b))
    assert telling_images(ours, theirs, "macro_f1") == pytest.approx(12)
    assert telling_images(ours, theirs, "log_loss") == 0.0
    assert telling_images(ours, ours, "balanced_accuracy") == 0.0
    wrong_b[95] = 0  # one image of the small class weighs as much as nine of the other
    theirs = Scores(given, labels, wrong_b, 1.0, np.zeros(100))
    assert telling_images(ours, theirs, "balanced_accuracy") < 2
