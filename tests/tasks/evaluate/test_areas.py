"""ROC AUC and average precision of weighted test sets against scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from tasks.evaluate import areas
from tasks.evaluate.areas import class_areas, of_class, rankings, work
from tasks.evaluate.resample import draw_counts
from tasks.evaluate.score import Scores


def oracle(scores: Scores, k: int, w: np.ndarray) -> tuple[float, float]:
    """Return scikit-learn's areas of one class, NaN where it has none."""
    true, given = of_class(scores, k), scores.probabilities_nc[:, k]
    kinds = set(true[w > 0])
    roc = sk.roc_auc_score(true, given, sample_weight=w) if len(kinds) == 2 else np.nan
    precision = (
        sk.average_precision_score(true, given, sample_weight=w) if True in kinds else np.nan
    )
    return roc, precision


def assert_scikit_learns(scores: Scores, counts_bn: np.ndarray) -> None:
    got = class_areas(rankings(scores), counts_bn.T)
    c = scores.probabilities_nc.shape[1]
    wanted = [[oracle(scores, k, w) for w in counts_bn] for k in range(c)]
    assert got.shape == (2, c, len(counts_bn))
    assert np.moveaxis(got, 0, -1) == pytest.approx(np.array(wanted), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("n", "c", "decimals"), [(150, 4, 7), (90, 3, 1), (6, 3, 7), (12, 8, 1)])
def test_resamples_have_scikit_learns_areas(random_scores, n, c, decimals, multi_label):
    scores = random_scores(n, c, multi_label, decimals=decimals)
    assert_scikit_learns(scores, next(draw_counts(n, 8, seed=1)))
    assert_scikit_learns(scores, np.ones((1, n), dtype=np.int64))


def test_many_resamples_are_each_like_alone(random_scores, monkeypatch):
    scores = random_scores(40, 3)
    counts_bn = next(draw_counts(40, 11, seed=1))
    whole = class_areas(rankings(scores), counts_bn.T)
    monkeypatch.setattr(areas, "AT_ONCE", 4)
    assert np.array_equal(class_areas(rankings(scores), counts_bn.T), whole)


def test_counts_that_float32_cannot_hold_are_added_exactly(random_scores):
    # 2**24 + 1 is no float32
    scores = random_scores(60, 3)
    counts_bn = np.random.default_rng(0).integers(2**24, 2**25, (2, 60)) | 1
    got = class_areas(rankings(scores), counts_bn.T)
    wanted = [[oracle(scores, k, w.astype(float)) for w in counts_bn] for k in range(3)]
    assert np.moveaxis(got, 0, -1) == pytest.approx(np.array(wanted), abs=1e-13)


def test_the_auc_is_mann_whitneys(random_scores):
    scores = random_scores(80, 2, decimals=1)
    true, given = scores.labels_n == 0, scores.probabilities_nc[:, 0]
    found = stats.mannwhitneyu(given[true], given[~true])
    ((auc,), _) = class_areas(rankings(scores), np.ones((80, 1)))[0]
    assert auc == pytest.approx(found.statistic / (true.sum() * (~true).sum()))


def test_a_class_of_no_image_or_of_all(scores_of):
    scores = scores_of([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], [0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roc, precision = class_areas(rankings(scores), np.ones((3, 1)))
    assert np.isnan(roc).all()
    assert precision[0] == 1.0
    assert np.isnan(precision[1])


def test_perfect_and_upside_down(scores_of):
    p = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]
    right, wrong = (
        class_areas(rankings(scores_of(p, labels)), np.ones((3, 1)))[:, 0, 0]
        for labels in ([0, 0, 1], [1, 1, 0])
    )
    assert right.tolist() == [1.0, 1.0]
    assert wrong.tolist() == [0.0, pytest.approx(1 / 3)]


def test_work_grows_with_what_is_counted(random_scores):
    assert work(random_scores(50, 3)) == 50 * 3 + 100 * 50
    several = random_scores(50, 3, True)
    assert work(several) == 50 * 3 + 100 * several.labels_n.sum()
    held = sum(ranking.sums.nnz for ranking in rankings(several))
    assert held <= 50 * 3
