"""Curves of each class against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from tasks.evaluate import curves as module
from tasks.evaluate.curves import DRAWN, POINTS
from tasks.evaluate.estimates import estimate_areas
from tasks.evaluate.score import Scores
from tasks.measures import Curve


def curves(scores: Scores, names: tuple[str, ...]) -> tuple[Curve, ...]:
    return module.curves(scores, names, estimate_areas(scores, names, 0, 0.95, 0))


def truth_of(scores: Scores, k: int) -> np.ndarray:
    return scores.labels_n[:, k] if scores.multi_label else scores.labels_n == k


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("n", "c", "decimals"), [(40, 3, 7), (3000, 4, 7), (300, 2, 1)])
def test_areas_and_points_are_scikit_learns(random_scores, n, c, decimals, multi_label):
    scores = random_scores(n, c, multi_label, decimals=decimals)
    names = tuple("abcd"[:c])
    got = curves(scores, names)
    assert tuple(curve.name for curve in got) == names
    for k, curve in enumerate(got):
        y, q = truth_of(scores, k), scores.probabilities_nc[:, k]
        assert curve.roc_auc == pytest.approx(sk.roc_auc_score(y, q), abs=1e-12)
        assert curve.average_precision == pytest.approx(sk.average_precision_score(y, q), abs=1e-12)
        wrong, right, _ = sk.roc_curve(y, q, drop_intermediate=False)
        precision, recall, _ = sk.precision_recall_curve(y, q)
        roc = list(zip(curve.false_positive_rate, curve.true_positive_rate, strict=True))
        pr = list(zip(curve.recall, curve.precision, strict=True))
        assert set(roc) <= set(zip(wrong, right, strict=True))
        assert set(pr) <= set(zip(recall, precision, strict=True))
        assert (roc[0], roc[-1]) == ((0, 0), (1, 1))
        assert (pr[0], pr[-1]) == ((0, 1), (1, pytest.approx(np.mean(y))))
        assert len(roc) <= POINTS
        assert len(pr) <= POINTS


def test_thinned_curves_keep_their_shape(random_scores):
    scores = random_scores(5000, 2)
    (curve, _) = curves(scores, ("a", "b"))
    truth, given = scores.labels_n == 0, scores.probabilities_nc[:, 0]
    wrong, right, _ = sk.roc_curve(truth, given, drop_intermediate=False)
    some_wrong, some_right = np.array([curve.false_positive_rate, curve.true_positive_rate])
    assert POINTS / 2 < len(some_wrong) <= POINTS < len(wrong)
    # along the curve, since it is steep where it starts
    between = np.interp(wrong + right, some_wrong + some_right, some_right)
    assert np.max(np.abs(between - right)) < 0.01
    assert np.trapezoid(some_right, some_wrong) == pytest.approx(curve.roc_auc, abs=0.001)
    assert np.max(np.diff(curve.recall)) < 0.011
    assert np.trapezoid(curve.precision, curve.recall) == pytest.approx(
        curve.average_precision, abs=0.005
    )


@pytest.mark.parametrize("labels", [[0, 0, 0], [[1, 0], [1, 0], [1, 0]]])
def test_a_class_of_no_image_or_of_all_has_no_curve(scores_of, labels):
    got = curves(scores_of([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], labels), ("all", "none"))
    for curve in got:
        assert curve.roc_auc is curve.average_precision is None
        assert curve.recall == curve.precision == ()
        assert curve.false_positive_rate == curve.true_positive_rate == ()


def test_of_many_classes_the_hardest_are_drawn(random_scores):
    scores = random_scores(600, DRAWN + 12)
    names = tuple(f"class {k}" for k in range(DRAWN + 12))
    got = curves(scores, names)
    assert all(curve.roc_auc is not None for curve in got)
    drawn = [curve.average_precision for curve in got if curve.recall]
    bare = [curve.average_precision for curve in got if not curve.recall]
    assert (len(drawn), len(bare)) == (DRAWN, 12)
    assert max(drawn) <= min(bare)
    assert all(bool(curve.recall) == bool(curve.true_positive_rate) for curve in got)
