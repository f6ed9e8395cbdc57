"""Figures of resampled test sets against scikit-learn's weights and scipy's resamples."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from tasks.evaluate.metrics import measure
from tasks.evaluate.resample import CHUNK, WIDEST, draw_counts, figure_names, figures, weigher
from tasks.evaluate.score import Scores
from tasks.evaluate.slices import subset

pytestmark = pytest.mark.filterwarnings("ignore:y_pred contains classes:UserWarning")
Oracle = Callable[[Scores, np.ndarray], float]


def calibration_error(scores: Scores, w: np.ndarray) -> float:
    confidence = np.repeat(scores.probabilities_nc.max(1).astype(float), w)
    right = np.repeat(scores.correct_n, w)
    accuracy, given = calibration_curve(right, confidence, n_bins=15)
    n = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    return float(np.sum(n[n > 0] * np.abs(accuracy - given)) / n.sum())


def brier(scores: Scores, w: np.ndarray) -> float:
    given = scores.probabilities_nc.astype(float)
    return sum(
        sk.brier_score_loss(scores.labels_n == k, given[:, k], sample_weight=w)
        for k in range(given.shape[1])
    )


def log_loss(scores: Scores, w: np.ndarray) -> float:
    given = scores.probabilities_nc.astype(float)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The y_pro")  # rows that sum to 1 but for rounding
        labels = range(given.shape[1])
        return sk.log_loss(scores.labels_n, given, sample_weight=w, labels=labels)


def present(scores: Scores, w: np.ndarray) -> np.ndarray:
    held = scores.labels_n[w > 0]
    return np.flatnonzero(held.any(0)) if scores.multi_label else np.unique(held)


def weighted(function: Callable, **options: object) -> Oracle:
    return lambda s, w: function(s.labels_n, s.predictions_n, sample_weight=w, **options)


def macro_f1(scores: Scores, w: np.ndarray) -> float:
    return weighted(sk.f1_score, average="macro", labels=present(scores, w))(scores, w)


def top(k: int) -> Oracle:
    return lambda s, w: sk.top_k_accuracy_score(
        s.labels_n, s.probabilities_nc, k=k, sample_weight=w,
        labels=range(s.probabilities_nc.shape[1]),
    )  # fmt: skip


def columns(function: Callable, values: str, only_present: bool = True) -> Oracle:
    """Return the mean over labels of a figure of one."""

    def oracle(scores: Scores, w: np.ndarray) -> float:
        given = getattr(scores, values).astype(float)  # in which scikit-learn goes on
        every = range(given.shape[1])
        used = present(scores, w) if only_present else every
        return float(
            np.mean([function(scores.labels_n[:, k], given[:, k], sample_weight=w) for k in used])
        )

    return oracle


ONE_LABEL: dict[str, Oracle] = {
    "accuracy": weighted(sk.accuracy_score),
    "balanced_accuracy": weighted(sk.balanced_accuracy_score),
    "macro_f1": macro_f1,
    "micro_f1": weighted(sk.f1_score, average="micro"),
    "top_2": top(2),
    "top_3": top(3),
    "top_5": top(5),
    "top_10": top(10),
    "log_loss": log_loss,
    "brier": brier,
    "ece": calibration_error,
}


def label_calibration_error(scores: Scores, w: np.ndarray) -> float:
    """Naeini et al. 2015 over all labels of all images, each image so often as it counts."""
    given = np.repeat(scores.probabilities_nc, w.astype(int), axis=0).astype(float).ravel()
    there = np.repeat(scores.labels_n, w.astype(int), axis=0).ravel()
    bins = np.digitize(given, np.linspace(0, 1, 16)[1:-1], right=True)
    gaps = [abs((there[bins == m] - given[bins == m]).sum()) for m in range(15)]
    return sum(gaps) / len(given)


SEVERAL_LABELS: dict[str, Oracle] = {
    "accuracy": weighted(sk.accuracy_score),
    "balanced_accuracy": columns(sk.balanced_accuracy_score, "predictions_n"),
    "macro_f1": macro_f1,
    "micro_f1": weighted(sk.f1_score, average="micro"),
    "mean_average_precision": columns(sk.average_precision_score, "probabilities_nc"),
    "hamming_loss": weighted(sk.hamming_loss),
    "log_loss": columns(
        partial(sk.log_loss, labels=[0, 1]), "probabilities_nc", only_present=False
    ),
    "brier": columns(sk.brier_score_loss, "probabilities_nc", only_present=False),
    "ece": label_calibration_error,
}


@pytest.mark.parametrize(
    ("n", "c", "decimals"), [(120, 2, 7), (90, 4, 2), (150, 6, 1), (60, 12, 7), (5, 3, 7)]
)
def test_figures_are_scikit_learns_with_counts_as_weights(random_scores, n, c, decimals):
    check(random_scores(n, c, seed=c, decimals=decimals), ONE_LABEL)


@pytest.mark.parametrize(("n", "c", "decimals"), [(120, 2, 7), (90, 7, 1), (9, 6, 7)])
def test_so_are_those_of_several_labels(random_scores, n, c, decimals):
    check(random_scores(n, c, multi_label=True, seed=c, decimals=decimals), SEVERAL_LABELS)


def check(scores: Scores, oracles: dict[str, Oracle]):
    n, c = scores.probabilities_nc.shape
    names = figure_names(scores)
    expected = {name for name in oracles if not name.startswith("top_") or int(name[4:]) < c}
    assert set(names) == expected
    counts_bn = np.concatenate([*draw_counts(n, 7, seed=n), np.ones((1, n), dtype=np.int64)])
    if n > 20:
        assert (counts_bn == 0).any(axis=1)[:7].all()
    got = figures(scores, names, counts_bn)
    for name in names:
        wanted = [oracles[name](scores, w) for w in counts_bn]
        assert got[name] == pytest.approx(wanted, abs=1e-9), name


@pytest.mark.parametrize("multi_label", [False, True])
def test_counts_of_one_give_the_plain_figure(random_scores, multi_label):
    scores = random_scores(200, 7, multi_label)
    plain = measure(scores, tuple("abcdefg"))
    names = figure_names(scores)
    got = {k: v[0] for k, v in figures(scores, names, np.ones((1, 200), dtype=np.int64)).items()}
    assert got["accuracy"] == plain.accuracy
    same = ["balanced_accuracy", "macro_f1", "log_loss"]
    same += ["micro_f1", "mean_average_precision", "hamming_loss"] if multi_label else []
    for name in same:
        assert got[name] == pytest.approx(getattr(plain, name), rel=1e-12), name
    if not multi_label:
        assert got["top_5"] == plain.top5_accuracy
        assert got["micro_f1"] == got["accuracy"]


@pytest.mark.parametrize("multi_label", [False, True])
def test_counts_are_the_same_as_images_that_are_there_so_often(random_scores, multi_label):
    scores = random_scores(40, 5, multi_label)
    counts_bn = next(draw_counts(40, 1, seed=3))
    rows = np.repeat(np.arange(40), counts_bn[0])
    longer = subset(scores, rows)
    names = figure_names(scores)
    got, wanted = (
        figures(scores, names, counts_bn),
        figures(longer, names, np.ones((1, 40), dtype=np.int64)),
    )
    for name in names:
        assert got[name] == pytest.approx(wanted[name], abs=1e-12), name


@pytest.mark.parametrize(("n", "resamples"), [(1, 5), (10, 2500), (3000, 1500), (50, 0)])
def test_the_resamples_are_those_of_scipy(n, resamples):
    # what scipy.stats.bootstrap draws; test_estimates.py compares with itself
    drawn = np.random.default_rng(4).integers(0, n, (resamples, n))
    chunks = list(draw_counts(n, resamples, seed=4))
    assert all(chunk.size <= CHUNK and len(chunk) <= WIDEST for chunk in chunks)
    assert all(chunk.dtype == np.int64 for chunk in chunks)
    assert sum(map(len, chunks)) == resamples
    rows = (row for chunk in chunks for row in chunk)
    assert all(
        np.array_equal(row, np.bincount(indices, minlength=n))
        for row, indices in zip(rows, drawn, strict=True)
    )


def test_the_seed_decides():
    first, again, other = (np.concatenate(list(draw_counts(50, 20, s))) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_weigher_does_not_depend_on_the_chunks(random_scores, multi_label):
    scores = random_scores(30, 4, multi_label)
    names = figure_names(scores)
    weigh = weigher(scores, names)
    whole = next(draw_counts(30, 11, seed=0))
    parts = [weigh(part) for part in (whole[:4], whole[4:])]
    for name, values_b in weigh(whole).items():
        assert np.concatenate([part[name] for part in parts]) == pytest.approx(values_b, abs=1e-12)


def test_memory_does_not_grow_with_the_resamples(random_scores):
    scores = random_scores(4000, 10)
    peaks = []
    for resamples in (1000, 3000):
        tracemalloc.start()
        weigh = weigher(scores, figure_names(scores))
        for counts_bn in draw_counts(4000, resamples, seed=0):
            weigh(counts_bn)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0] < 150e6


def test_an_unknown_figure_is_a_key_error(random_scores):
    for name in ("recall", "hamming_loss"):
        with pytest.raises(KeyError):
            figures(random_scores(5, 2), [name], np.ones((1, 5), dtype=np.int64))
