"""Intervals against scipy.stats.bootstrap, and at the edges of what a test set can be."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from tasks.evaluate import areas, estimates
from tasks.evaluate.estimates import estimate, estimate_areas, estimate_classes
from tasks.evaluate.resample import figure_names, figures
from tasks.evaluate.score import Scores
from tasks.evaluate.slices import subset

CONFIDENCE = 0.9


def scipys_interval(statistic, n: int, resamples: int, seed: int) -> tuple[float, float]:
    found = stats.bootstrap(
        (np.arange(n),),
        statistic,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return found.confidence_interval


def whole_names(scores: Scores) -> list[str]:
    return [name for name in figure_names(scores) if name != "mean_average_precision"]


@pytest.mark.parametrize(("c", "multi_label"), [(2, False), (6, False), (5, True)])
def test_each_interval_is_scipys(random_scores, c, multi_label):
    scores, resamples, seed = random_scores(70, c, multi_label), 120, 5
    got = estimate(scores, resamples, CONFIDENCE, seed)
    assert [one.name for one in got] == whole_names(scores)
    assert {one.resamples for one in got} == {resamples}
    once = np.ones((1, 70), dtype=np.int64)
    for one in got:
        # the figure itself is checked against scikit-learn in test_resample.py
        low, high = scipys_interval(
            lambda rows, name=one.name: figures(subset(scores, rows), [name], once)[name][0],
            70,
            resamples,
            seed,
        )
        assert (one.low, one.high) == pytest.approx((low, high), abs=1e-9), one.name
    assert all(one.low < one.high for one in got if not one.name.startswith("top"))


def test_a_few_intervals_are_those_of_scikit_learns_figures(random_scores):
    scores, resamples, seed = random_scores(60, 3), 80, 2
    got = {one.name: one for one in estimate(scores, resamples, CONFIDENCE, seed)}
    y, p, q = scores.labels_n, scores.predictions_n, scores.probabilities_nc
    oracles = {
        "accuracy": lambda i: sk.accuracy_score(y[i], p[i]),
        "balanced_accuracy": lambda i: sk.balanced_accuracy_score(y[i], p[i]),
        "macro_f1": lambda i: sk.f1_score(y[i], p[i], average="macro"),
        "top_2": lambda i: sk.top_k_accuracy_score(y[i], q[i], k=2, labels=range(3)),
    }
    for name, oracle in oracles.items():
        low, high = scipys_interval(oracle, 60, resamples, seed)
        assert (got[name].low, got[name].high) == pytest.approx((low, high)), name


def test_the_interval_of_the_accuracy_is_the_binomials(random_scores):
    # resampled accuracy is Binomial(n, accuracy) / n in closed form
    scores = random_scores(400, 3)
    got = next(one for one in estimate(scores, 20_000, CONFIDENCE, 0) if one.name == "accuracy")
    quantiles = stats.binom.ppf([0.05, 0.95], 400, got.value) / 400
    assert (got.low, got.high) == pytest.approx(quantiles, abs=1 / 400)


def test_the_seed_repeats_it(random_scores):
    scores = random_scores(50, 3)
    assert estimate(scores, 50, 0.95, 1) == estimate(scores, 50, 0.95, 1)
    assert estimate(scores, 50, 0.95, 1) != estimate(scores, 50, 0.95, 2)


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_resamples_no_intervals(random_scores, multi_label):
    scores = random_scores(30, 3, multi_label)
    names = tuple("abc")
    with_intervals, without = (
        (
            *estimate(scores, resamples, 0.95, 0),
            *estimate_classes(scores, names, resamples, 0.95, 0),
            *estimate_areas(scores, names, resamples, 0.95, 0),
        )
        for resamples in (10, 0)
    )
    assert {(one.low, one.high, one.resamples) for one in without} == {(None, None, None)}
    assert [(one.name, one.value) for one in without] == [
        (one.name, one.value) for one in with_intervals
    ]


def values(scores: Scores, resamples: int = 20) -> dict[str, tuple[float, ...]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {
            one.name: (one.value, one.low, one.high) for one in estimate(scores, resamples, 0.95, 0)
        }


def test_all_right_and_sure_of_it(scores_of):
    scores = scores_of(np.eye(3)[[0, 1, 2, 2]], [0, 1, 2, 2])
    assert str(scores.log_loss) == "0.0"  # no -0.0
    got = values(scores)
    for name, found in got.items():
        best = 0.0 if name in ("log_loss", "brier", "ece") else 1.0
        assert found == (best, best, best), name
        assert "-" not in str(found)


def test_all_wrong_and_sure_of_it(scores_of):
    got = values(scores_of(np.eye(2)[[0, 1]], [1, 0]))
    worst = {"accuracy": 0, "balanced_accuracy": 0, "macro_f1": 0, "micro_f1": 0, "brier": 2}
    worst |= {"ece": 1, "log_loss": -np.log(np.finfo(np.float32).tiny)}
    assert got.keys() == worst.keys()
    for name, value in worst.items():
        assert got[name] == pytest.approx((value, value, value)), name


def test_one_image(scores_of):
    got = values(scores_of([[0.25, 0.75]], [0]))
    assert got["brier"] == pytest.approx([2 * 0.75**2] * 3)
    assert got["ece"] == pytest.approx([0.75] * 3)
    assert got["log_loss"] == pytest.approx([np.log(4)] * 3)
    assert got["macro_f1"] == got["balanced_accuracy"] == (0, 0, 0)


def test_one_class_only_in_the_test_set(scores_of):
    p = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.7, 0.2, 0.1], [0.4, 0.3, 0.3]]
    got = values(scores_of(p, [0, 0, 0, 0]))
    assert got["balanced_accuracy"][0] == got["accuracy"][0] == 0.75
    assert got["macro_f1"][0] == pytest.approx(2 * 0.75 / 1.75)
    assert got["top_2"][0] == 0.75


def test_a_class_without_images_does_not_spoil_the_means(scores_of):
    got = values(scores_of(np.eye(3)[[0, 1, 1, 2]], [0, 1, 0, 0]))
    assert got["balanced_accuracy"][0] == pytest.approx((1 / 3 + 1) / 2)
    assert got["macro_f1"][0] == pytest.approx((0.5 + 2 / 3) / 2)


def test_resamples_without_any_label_are_left_out(scores_of):
    # one labelled image of six: a third of the resamples hold no label
    p = np.full((6, 2), 0.1)
    p[0] = 0.9, 0.2
    got = values(scores_of(p, [[1, 0]] + [[0, 0]] * 5), resamples=200)
    for name in ("macro_f1", "micro_f1", "balanced_accuracy"):
        assert got[name][0] == 1.0, name
    assert got["macro_f1"] == (1.0, 1.0, 1.0)
    assert got["micro_f1"] == (1.0, 0.0, 1.0)  # neither true nor predicted: 0
    names = ("a", "b")
    areas = estimate_areas(scores_of(p, [[1, 0]] + [[0, 0]] * 5), names, 200, CONFIDENCE, 0)
    assert {one.name for one in areas} == {
        *("mean_roc_auc", "roc_auc[a]"),
        *("mean_average_precision", "average_precision[a]"),
    }
    assert {(one.value, one.low, one.high) for one in areas} == {(1.0, 1.0, 1.0)}


def areas_oracle(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives scikit-learn's ROC AUC and average precision (2, c) of resampled images."""
    true_nc = scores.labels_n if scores.multi_label else np.eye(3, dtype=int)[scores.labels_n]

    @functools.cache  # scipy draws the same resamples for each figure
    def areas(images: tuple[int, ...]) -> np.ndarray:
        pairs = zip(true_nc[list(images)].T, scores.probabilities_nc[list(images)].T, strict=True)
        return np.transpose(
            [(sk.roc_auc_score(y, q), sk.average_precision_score(y, q)) for y, q in pairs]
        )

    return lambda i: areas(tuple(i))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_intervals_of_areas_are_scipys_of_scikit_learns(random_scores, multi_label):
    scores, names, n = random_scores(60, 3, multi_label), ("a", "b", "c"), 60
    got = {one.name: one for one in estimate_areas(scores, names, 40, CONFIDENCE, 4)}
    oracle = areas_oracle(scores)
    statistics = {
        f"{name}[{what}]": lambda i, k=k, which=which: oracle(i)[which, k]
        for which, name in enumerate(("roc_auc", "average_precision"))
        for k, what in enumerate(names)
    }
    statistics["mean_roc_auc"] = lambda i: oracle(i)[0].mean()
    statistics["mean_average_precision"] = lambda i: oracle(i)[1].mean()
    assert got.keys() == statistics.keys()
    for name, statistic in statistics.items():
        one, (low, high) = got[name], scipys_interval(statistic, n, 40, 4)
        assert one.value == pytest.approx(statistic(np.arange(n))), name
        assert (one.low, one.high) == pytest.approx((low, high)), name
        assert one.low < one.high
        assert one.resamples == 40


def test_the_auc_varies_as_delong_says(random_scores):
    # DeLong, DeLong & Clarke-Pearson 1988: the variance of the AUC from its placements
    scores = random_scores(1500, 2)
    true, q = scores.labels_n == 0, scores.probabilities_nc[:, 0]
    beats = (q[true][:, None] > q[~true]) + 0.5 * (q[true][:, None] == q[~true])
    variance = sum(beats.mean(axis=axis).var(ddof=1) / beats.shape[1 - axis] for axis in (0, 1))
    got = {one.name: one for one in estimate_areas(scores, ("a", "b"), 2000, CONFIDENCE, 0)}
    one = got["roc_auc[a]"]
    wide = 2 * stats.norm.isf((1 - CONFIDENCE) / 2) * np.sqrt(variance)
    assert one.high - one.low == pytest.approx(wide, rel=0.07)


def test_a_class_of_one_kind_only_has_no_areas(scores_of):
    p = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.7, 0.2, 0.1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        some = estimate_areas(scores_of(p, [0, 1, 0]), ("a", "b", "c"), 30, 0.95, 0)
        bare = estimate_areas(scores_of(p, [0, 0, 0]), ("a", "b", "c"), 30, 0.95, 0)
    assert {one.name.partition("[")[2] for one in some} == {"", "a]", "b]"}
    assert [(one.name, one.value) for one in bare] == [("mean_average_precision", 1.0)]


def test_areas_that_would_take_minutes_have_fewer_resamples(random_scores, monkeypatch, caplog):
    scores, names = random_scores(40, 3), ("a", "b", "c")
    one_resample = 40 * 3 + 100 * 40
    whole = estimate_areas(scores, names, 60, CONFIDENCE, 0)
    assert caplog.text == ""
    monkeypatch.setattr(estimates, "LONGEST", one_resample * 101 - 1)
    assert estimate_areas(scores, names, 300, CONFIDENCE, 0) == estimate_areas(
        scores, names, 100, CONFIDENCE, 0
    )
    assert "are of 100 resamples instead of 300: 40 images, 3 classes" in caplog.text
    assert estimate_areas(scores, names, 60, CONFIDENCE, 0) == whole
    monkeypatch.setattr(estimates, "LONGEST", one_resample * 100 - 1)  # 5 beyond each end are less
    bare = estimate_areas(scores, names, 300, CONFIDENCE, 0)
    assert "are of 0 resamples instead of 300" in caplog.text
    assert {(one.low, one.high, one.resamples) for one in bare} == {(None, None, None)}
    assert [(one.name, one.value) for one in bare] == [(one.name, one.value) for one in whole]


@pytest.mark.parametrize("multi_label", [False, True])
def test_areas_keep_the_rankings_of_a_block_of_classes_only(
    random_scores, multi_label, monkeypatch
):
    scores, names = random_scores(40, 5, multi_label), tuple("abcde")
    whole = estimate_areas(scores, names, 60, CONFIDENCE, 0)
    made, most = {}, 0

    def watched(ranked, counts_nb):
        nonlocal most
        made.update({id(one): weakref.ref(one) for one in ranked})
        most = max(most, sum(one() is not None for one in made.values()))
        return areas.class_areas(ranked, counts_nb)

    monkeypatch.setattr(estimates, "class_areas", watched)
    monkeypatch.setattr(areas, "HELD", 2 * 40 + 1)
    assert [list(one) for one in areas.blocks(scores)] == [[0, 1], [2, 3], [4]]
    assert estimate_areas(scores, names, 60, CONFIDENCE, 0) == whole
    assert most == 2
    monkeypatch.setattr(areas, "HELD", 1)
    assert estimate_areas(scores, names, 60, CONFIDENCE, 0) == whole


@pytest.mark.parametrize("multi_label", [False, True])
def test_figures_of_each_class_are_scikit_learns(random_scores, multi_label):
    scores, names = random_scores(80, 3, multi_label), ("a", "b", "c")
    got = {one.name: one for one in estimate_classes(scores, names, 30, CONFIDENCE, 1)}
    y, p = scores.labels_n, scores.predictions_n
    plain = sk.precision_recall_fscore_support(y, p, labels=range(3), zero_division=0.0)
    for k, name in enumerate(names):
        for figure, values_c in zip(("precision", "recall", "f1"), plain, strict=False):
            assert got[f"{figure}[{name}]"].value == pytest.approx(values_c[k])
        for figure, function in (
            ("recall", sk.recall_score),
            ("precision", sk.precision_score),
            ("f1", sk.f1_score),
        ):
            low, high = scipys_interval(
                lambda i, k=k, function=function: function(
                    y[i], p[i], labels=[k], average="macro", zero_division=0.0
                ),
                80,
                30,
                1,
            )
            one = got[f"{figure}[{name}]"]
            assert (one.low, one.high) == pytest.approx((low, high)), one.name


def test_a_class_without_images_has_no_figures(scores_of):
    scores = scores_of(np.eye(3)[[0, 1, 1, 2]], [0, 1, 1, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = {one.name: one for one in estimate_classes(scores, ("a", "b", "c"), 50, 0.95, 0)}
    assert {name.split("[")[1] for name in got} == {"a]", "b]"}
    # a resample without the two images of b says nothing of b
    assert (got["recall[b]"].value, got["recall[b]"].low, got["recall[b]"].high) == (1, 1, 1)


def test_a_class_that_no_resample_holds_has_no_interval(scores_of):
    scores = scores_of(np.eye(2)[[0] * 30 + [1]], [0] * 30 + [1])
    seed = next(s for s in range(50) if 30 not in np.random.default_rng(s).integers(0, 31, 31))
    got = {one.name: one for one in estimate_classes(scores, ("a", "b"), 1, 0.95, seed)}
    assert (got["recall[b]"].value, got["recall[b]"].low) == (1.0, None)
    assert got["recall[a]"].low == 1.0


def test_too_many_classes_have_no_intervals_and_the_log_says_so(random_scores, monkeypatch, caplog):
    monkeypatch.setattr(estimates, "KEPT", 29)
    got = estimate_classes(random_scores(40, 3), ("a", "b", "c"), 10, 0.95, 0)
    assert "no intervals: 3 classes" in caplog.text
    assert {one.low for one in got} == {None}
    assert len(got) == 9
