"""The gate's arithmetic at its edges: ties, one image, no variance, and every field by itself."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from tasks.evaluate.score import Scores
from tasks.evaluationconfig import PromotionConfig
from tasks.register.paired import (
    Comparison,
    Draws,
    compare,
    mcnemar_exact,
    non_inferiority_exact,
    score_interval,
    strict_level,
    telling_images,
)
from tasks.register.power import (
    chance,
    detectable,
    non_inferior_wins,
    score_statistic,
    size,
    superior_wins,
)

N = 40


def scored(right: np.ndarray, labels: np.ndarray | None = None) -> Scores:
    """Return scores of two classes, by turns unless ``labels`` says which."""
    labels = np.arange(len(right)) % 2 if labels is None else labels
    predictions = np.where(right, labels, 1 - labels)
    probabilities = np.full((len(right), 2), 0.1, dtype=np.float32)
    probabilities[np.arange(len(right)), predictions] = 0.9
    return Scores(probabilities, labels, predictions, 1.0, np.zeros(len(right)))


def pair(wins: int, losses: int, both: int) -> tuple[Scores, Scores]:
    """Return two models: images that one alone gets right, then those that both do."""
    i = np.arange(N)
    right = (i >= wins + losses) & (i < wins + losses + both)
    return scored(right | (i < wins)), scored(right | ((i >= wins) & (i < wins + losses)))


@pytest.mark.parametrize("rule", ["superiority", "non_inferiority"])
@pytest.mark.parametrize(("wins", "losses"), [(14, 2), (3, 3), (2, 9)])
def test_every_field_of_a_comparison_of_accuracies(rule: str, wins: int, losses: int):
    settings = PromotionConfig(rule=rule, margin=0.15, alpha=0.1)
    if rule == "superiority":
        p, level, method = mcnemar_exact(wins, losses), 0.1, "exact McNemar"
        region, lowest, shown = superior_wins(N, 0.1), 0.0, wins == 14
    else:
        p, level = non_inferiority_exact(wins, losses, N, 0.15), 0.05
        region, lowest, shown = non_inferior_wins(N, 0.15, 0.05), -0.15, wins == 14 or losses == 3
        method = "exact unconditional score test"
    low, high = score_interval(wins, losses, N, 0.1)
    assert compare(*pair(wins, losses, 10), settings, Draws(100, 0)) == Comparison(
        metric="accuracy",
        ours=(wins + 10) / N,
        theirs=(losses + 10) / N,
        gain=(wins - losses) / N,
        low=low,
        high=high,
        p_value=p,
        level=level,
        shown=shown,
        wins=wins,
        losses=losses,
        n=N,
        theirs_accuracy=(losses + 10) / N,
        detectable=detectable(region, (wins + losses) / N, lowest),
        method=method,
        resamples=0,
    )


def test_a_p_value_at_the_level_is_not_under_it():
    for alpha, shown in ((0.0625, False), (0.0626, True)):  # 5 wins of 5: 2 / 2^5
        found = compare(*pair(5, 0, 10), PromotionConfig(alpha=alpha), Draws(100, 0))
        assert (found.p_value, found.shown) == (0.0625, shown)


def test_an_exact_p_value_of_non_inferiority_at_the_level_is_not_under_it():
    p = non_inferiority_exact(3, 1, N, 0.15)
    settings = PromotionConfig(rule="non_inferiority", margin=0.15, alpha=2 * p)
    found = compare(*pair(3, 1, 20), settings, Draws(100, 0))
    assert (found.p_value, found.level, found.shown) == (p, p, False)


def test_a_share_of_resamples_at_the_level_is_not_under_it(monkeypatch: pytest.MonkeyPatch):
    """Student's t gives no round level: the one that is asked for stands in for its."""
    monkeypatch.setattr("tasks.register.paired.strict_level", lambda level, images: level)
    models, draws = pair(9, 4, 20), Draws(400, 1)
    p = compare(*models, PromotionConfig(metric="macro_f1"), draws).p_value
    for alpha, shown in ((2 * p, False), (2.001 * p, True)):
        found = compare(*models, PromotionConfig(metric="macro_f1", alpha=alpha), draws)
        assert (found.p_value, found.level > p, found.shown) == (p, shown, shown)


def test_what_one_resample_finds_has_no_spread_and_what_two_find_has():
    for resamples in (1, 2):
        found = compare(*pair(9, 4, 20), PromotionConfig(metric="macro_f1"), Draws(resamples, 0))
        assert found.level > 0
        assert (found.detectable is None) == (found.low == found.high) == (resamples == 1)


def test_resamples_without_a_gain_are_against_it():
    """One win and one loss of a class: about a third of the resamples have as many of each."""
    settings = PromotionConfig(metric="balanced_accuracy", alpha=0.2)
    right = np.arange(N) < 30
    ours, theirs = right.copy(), right.copy()
    ours[0], theirs[2] = False, False
    found = compare(scored(ours), scored(theirs), settings, Draws(2000, 0))
    assert found.gain == pytest.approx(0)
    assert found.p_value > 0.6
    assert (found.wins, found.losses, found.n, found.resamples) == (1, 1, N, 2000)
    assert found.theirs_accuracy == found.ours == found.theirs == pytest.approx(29 / N)
    assert found.method == "paired bootstrap (2,000 resamples; the gain rests on 2 images)"


def test_a_margin_moves_the_p_value_and_what_can_be_shown_by_as_much():
    ours, theirs = pair(9, 4, 20)
    strict, lenient = (
        compare(ours, theirs, PromotionConfig(metric="macro_f1", **rule), Draws(4000, 1))
        for rule in ({}, {"rule": "non_inferiority", "margin": 0.2})
    )
    assert lenient.detectable == pytest.approx(strict.detectable - 0.2)
    assert (lenient.low, lenient.high, lenient.level) == (strict.low, strict.high, strict.level)
    assert lenient.p_value < strict.p_value
    assert lenient.shown == (lenient.low > -0.2)


def test_of_one_image_no_bootstrap_shows_anything():
    found = compare(*pair(1, 0, 20), PromotionConfig(metric="macro_f1"), Draws(4000, 1))
    assert (found.level, found.shown, found.detectable) == (0.0, False, None)


def participation(parts_n: np.ndarray) -> float:
    """How many equal parts would vary as much (Bell & Dean 1970)."""
    squares = (parts_n - parts_n.mean()) ** 2
    return squares.sum() ** 2 / (squares**2).sum()


@pytest.mark.parametrize("wins", [1, 5, 39])
def test_the_images_of_a_one_sided_gain_are_counted_by_the_closed_form(wins: int):
    m = wins / N
    expected = (N * m * (1 - m)) ** 2 / (wins * (1 - m) ** 4 + (N - wins) * m**4)
    assert telling_images(*pair(wins, 0, 0), "accuracy") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "weighted"), [("balanced_accuracy", 1), ("macro_f1", 1), ("micro_f1", 0)]
)
def test_images_of_a_small_class_weigh_more_where_classes_weigh_alike(metric: str, weighted: int):
    labels = np.array([0] * 90 + [1] * 10)
    wrong = np.isin(np.arange(100), (0, 1, 95))
    ours, theirs = (scored(right, labels) for right in (np.ones(100, bool), ~wrong))
    sizes = np.where(labels == 0, 90, 10)
    parts = np.where(wrong, 1 / sizes if weighted else 1.0, 0.0)
    assert telling_images(ours, theirs, metric) == pytest.approx(participation(parts))


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy", "micro_f1"])
def test_of_several_labels_the_wrong_ones_are_counted(metric: str, scores_of):
    labels = np.tile([[1, 0, 1, 0]], (N, 1))
    given = np.where(labels == 1, 0.9, 0.1)
    worse = given.copy()
    worse[:2, 0] = 0.1  # one label wrong
    worse[2, :2] = 0.1, 0.9  # two
    parts = np.zeros(N)
    parts[:3] = 0.25, 0.25, 0.5
    found = telling_images(scores_of(given, labels), scores_of(worse, labels), metric)
    assert found == pytest.approx(participation(parts))


def test_two_images_are_the_fewest_of_a_level():
    assert strict_level(0.025, 1.999) == 0.0
    assert 0 < strict_level(0.025, 2) < 1e-4  # Student's t with one degree of freedom: 12.7


@pytest.mark.parametrize("gain", [-0.3, -0.05, 0.0, 0.2])
def test_the_score_statistic_is_that_of_the_likeliest_loss(gain: float):
    """Oracle: the chance of a loss by numerical maximum likelihood, for many tables at once."""
    tables = [(1, 0, 9), (4, 3, 12), (0, 7, 9), (12, 5, 30), (2, 2, 50)]
    for b, c, of in tables:

        def surprise(loss: float, b: int = b, c: int = c, of: int = of) -> float:
            chances = np.maximum([loss + gain, loss, 1 - 2 * loss - gain], 1e-300)
            return -float(np.dot([b, c, of - b - c], np.log(chances)))

        bounds = (max(0.0, -gain), (1 - gain) / 2)
        options = {"xatol": 1e-12}
        loss = minimize_scalar(surprise, bounds=bounds, method="bounded", options=options).x
        expected = (b - c - of * gain) / np.sqrt(of * (2 * loss + gain - gain**2))
        found = score_statistic(np.array(b), np.array(c), of, gain)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_score_without_variance_is_nothing_or_without_end():
    def score(b: int, c: int, gain: float) -> float:
        return float(score_statistic(np.array(b), np.array(c), 10, gain))

    assert score(10, 0, 1.0) == score(0, 10, -1.0) == score(0, 0, 0.0) == 0.0
    assert score(3, 1, 1.0) == -inf
    assert score(3, 1, -1.0) == inf


def test_the_size_of_a_region_is_the_closed_form():
    """Wins alone, all n of them: ((1 - margin) / 2)^n where all images are told apart."""
    n, margin = 6, 0.1
    least = np.arange(n + 1) + 1
    least[n] = n
    assert size(least, margin) == pytest.approx(((1 - margin) / 2) ** n)
    assert size(np.zeros(n + 1, dtype=np.int64), margin) == pytest.approx(1.0)
    assert size(np.arange(n + 1) + 1, margin) == 0.0


def test_chances_where_no_image_is_told_apart_and_where_all_gain():
    least = superior_wins(20, 0.05)
    assert chance(least, 0.0, 0.0) == 0.0
    # each image that is told apart is a win: at least 6 of 20 must be, since 2 / 2^6 < 0.05
    expected = binom.sf(5, 20, 0.4)
    assert chance(least, 0.4, 0.4) == pytest.approx(expected, abs=1e-9)
    assert chance(np.zeros(21, dtype=np.int64), 0.0, 0.0) == pytest.approx(1.0)
