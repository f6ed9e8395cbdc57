"""The reliability diagram against scikit-learn's calibration curve."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from tasks.evaluate.reliability import expected_calibration_error, reliability
from tasks.evaluate.resample import figures


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize(("c", "decimals"), [(2, 7), (5, 7), (3, 1)])
def test_bins_are_scikit_learns(random_scores, bins, c, decimals):
    scores = random_scores(300, c, seed=c, decimals=decimals)
    got = reliability(scores, bins)
    given = scores.probabilities_nc.max(1).astype(float)
    accuracy, confidence = calibration_curve(scores.correct_n, given, n_bins=bins)
    filled = [one for one in got if one.n]
    assert [one.accuracy for one in filled] == pytest.approx(accuracy)
    assert [one.confidence for one in filled] == pytest.approx(confidence)
    assert len(got) == bins
    assert sum(one.n for one in got) == 300
    assert [one.low for one in got] == pytest.approx(np.linspace(0, 1, bins + 1)[:-1])
    assert [one.high for one in got] == pytest.approx(np.linspace(0, 1, bins + 1)[1:])
    for one in filled:
        assert one.low - 1e-7 <= one.confidence <= one.high + 1e-7


@pytest.mark.parametrize("c", [2, 5])
def test_its_error_is_the_figure_of_the_report(random_scores, c):
    scores = random_scores(300, c)
    got = expected_calibration_error(reliability(scores))
    figure = figures(scores, ["ece"], np.ones((1, 300), dtype=np.int64))["ece"][0]
    assert got == pytest.approx(figure, abs=1e-12)


def test_its_error_by_hand(scores_of):
    # two at 0.9 of which one is right, two at 0.6 that both are
    p = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]
    bins = reliability(scores_of(p, [0, 1, 1, 1]))
    assert expected_calibration_error(bins) == pytest.approx((0.4 + 0.4) / 2, abs=1e-6)


def test_edges_belong_to_the_bin_below_and_nothing_is_lost(scores_of):
    bins = reliability(scores_of([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]], [0, 0, 0]), bins=4)
    assert [one.n for one in bins] == [0, 1, 1, 1]
    assert bins[0].confidence is bins[0].accuracy is None
    sure = reliability(scores_of(np.eye(2)[[0, 1]], [0, 1]))
    assert expected_calibration_error(sure) == 0.0


def test_several_labels_are_sure_of_all_together(scores_of):
    bins = reliability(scores_of([[0.9, 0.5001], [0.8, 0.1]], [[1, 1], [1, 1]]), bins=2)
    assert [one.n for one in bins] == [1, 1]
    assert bins[0].confidence == pytest.approx(0.9 * 0.5001)
    assert (bins[0].accuracy, bins[1].accuracy) == (1.0, 0.0)
