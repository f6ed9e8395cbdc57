"""The rejection threshold against brute force, scipy's beta, and its own promise in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from tasks.evaluate.rejection import choose_rejection
from tasks.evaluate.score import Scores
from tasks.outputs import chosen


def scored(confidence, right) -> Scores:
    """Return scores of two classes; the predicted one is the second."""
    sure = np.asarray(confidence, np.float32)
    p = np.column_stack((1 - sure, sure))
    labels = np.asarray(right, int)
    return Scores(p, labels, np.ones(len(sure), int), 0.0, np.zeros(len(sure)))


def random_scores(n: int, seed: int) -> Scores:
    """Return scores that are right as often as they say."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1, n)
    return scored(sure, rng.random(n) < sure)


def brute_force(scores: Scores, wanted: float) -> tuple[float, float] | None:
    """Return coverage and error of the largest of the 20 coverages whose bound suffices."""
    sure, right = scores.probabilities_nc[:, 1], scores.correct_n
    n = len(sure)
    order = np.argsort(-sure, kind="stable")
    ranks = sorted({math.ceil(n * part / 20) for part in range(1, 21)}, reverse=True)
    for rank in ranks:
        wrong = int((~right[order[:rank]]).sum())
        bound = 1.0 if wrong == rank else beta.ppf(1 - 0.05 / len(ranks), wrong + 1, rank - wrong)
        if bound <= wanted:
            return rank / n, wrong / rank
    return None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [7, 143, 600])
@pytest.mark.parametrize("wanted", [0.1, 0.2, 0.6])
def test_brute_force_finds_the_same(n, wanted, seed):
    val, test = random_scores(n, seed), random_scores(50, seed + 100)
    got = choose_rejection(val, test, wanted)
    expected = brute_force(val, wanted)
    if expected is None:
        assert (got.threshold > 1, got.val_coverage, got.test_error) == (True, 0, None)
        return
    assert (got.val_coverage, got.val_error) == pytest.approx(expected)
    answered = test.probabilities_nc[:, 1] >= got.threshold
    assert got.test_coverage == pytest.approx(answered.mean())
    assert got.test_error == pytest.approx(1 - test.correct_n[answered].mean())


def test_the_bound_holds_with_the_binomials_own_probability():
    """At a wanted error just below the bound nothing is answered, just above it all is."""
    n, wrong = 400, 10
    scores = scored(np.full(n, 0.9), np.arange(n) >= wrong)  # one threshold: no correction
    bound = beta.ppf(0.95, wrong + 1, n - wrong)
    assert binom.cdf(wrong, n, bound) == pytest.approx(0.05)
    assert choose_rejection(scores, scores, bound * 1.0001).val_coverage == 1
    assert choose_rejection(scores, scores, bound * 0.9999).val_coverage == 0


def test_the_promise_is_kept():
    """Images with confidence u, uniform in 0.5 to 1, are wrong with probability 1 - u."""
    wanted, risks, coverages = 0.15, [], []
    for seed in range(60):
        got = choose_rejection(random_scores(1_000, seed), random_scores(10, 0), wanted)
        least = min(max(got.threshold, 0.5), 1.0)
        risks.append((1 - least) / 2)  # the mean of 1 - u above the threshold
        coverages.append(got.val_coverage)
    assert np.mean(np.array(risks) > wanted) <= 0.05
    assert np.mean(coverages) > 0.3  # 0.6 if the truth were known: the promise is not empty


def test_where_all_is_right_every_image_is_answered():
    val = scored(np.linspace(0.6, 1, 300), np.ones(300))
    got = choose_rejection(val, scored([0.5, 0.55], [0, 1]), 0.05)
    assert (got.threshold, got.val_coverage, got.val_error) == (0, 1, 0)
    assert (got.test_coverage, got.test_error) == (1, 0.5)


@pytest.mark.parametrize("right", [0, 1])
def test_what_no_threshold_reaches_is_told(right, caplog):
    scores = scored(np.linspace(0.6, 1, 100), np.full(100, right))
    got = choose_rejection(scores, scores, 0.01)
    assert got.threshold > 1
    assert (got.val_coverage, got.val_error, got.test_coverage, got.test_error) == (0, 0, 0, None)
    needed = next(n for n in range(1, 9999) if beta.ppf(1 - 0.05 / 20, 1, n) <= 0.01)
    assert f"it takes {needed} answered validation images, and there are 100" in caplog.text


def test_equal_confidences_are_answered_or_not_together():
    sure = np.repeat([0.7, 0.9], 200)
    scores = scored(sure, np.concatenate((np.arange(200) % 2, np.ones(200))))
    got = choose_rejection(scores, scores, 0.1)
    assert got.threshold == pytest.approx(0.8)
    assert (got.val_coverage, got.val_error) == (0.5, 0)


def test_what_float32_calls_certain_is_answered_in_float64_too():
    below = np.nextafter(np.float32(1), np.float32(0))
    scores = scored(np.repeat([below, np.float32(1)], 200), np.arange(400) >= 200)
    threshold = choose_rejection(scores, scores, 0.1).threshold
    for served in np.linspace(0.9, 1, 7) * 1e-8:
        assert (1 - served >= threshold) == (np.float32(1 - served) == 1)
    assert float(below) < threshold <= 1


def test_of_several_labels_all_must_be_right():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, (2_000, 2)).astype(np.float32)
    labels = (rng.random((2_000, 2)) < p).astype(int)
    scores = Scores(p, labels, chosen(p, True), 0.0, np.zeros(2_000), True)
    got = choose_rejection(scores, scores, 0.25)
    answered = np.maximum(p, 1 - p).astype(float).prod(axis=1) >= got.threshold
    right = (labels == (p > 0.5)).all(axis=1)
    assert 0 < got.val_coverage < 1
    assert got.val_coverage == pytest.approx(answered.mean())
    assert got.val_error == pytest.approx(1 - right[answered].mean())
    assert got.val_error <= 0.25
