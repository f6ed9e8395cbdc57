"""The reliability diagram against scikit-learn's calibration curve."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from tasks.evaluate import reliability as module
from tasks.evaluate.estimates import estimate
from tasks.evaluate.reliability import expected_calibration_error, reliability
from tasks.evaluate.resample import figures
from tasks.evaluate.slices import subset


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


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
def test_of_several_labels_every_label_is_a_decision(random_scores, monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    scores = random_scores(90, 5, True)
    given, there = scores.probabilities_nc.ravel().astype(float), scores.labels_n.ravel()
    share, said = calibration_curve(there, given, n_bins=15)
    got = reliability(scores)
    filled = [one for one in got if one.n]
    assert [one.accuracy for one in filled] == pytest.approx(share)
    assert [one.confidence for one in filled] == pytest.approx(said)
    assert sum(one.n for one in got) == 90 * 5
    ece = np.average(np.abs(share - said), weights=[one.n for one in filled])
    assert expected_calibration_error(got) == pytest.approx(ece)
    counts = np.random.default_rng(0).integers(0, 3, (4, 90))
    found = figures(scores, ["ece"], counts)["ece"]
    for row, value in zip(counts, found, strict=True):
        again = subset(scores, np.repeat(np.arange(90), row))
        assert value == pytest.approx(expected_calibration_error(reliability(again)))


def test_the_error_of_several_labels_by_hand(scores_of):
    # three labels at 0.9 of which two are there, one at 0.2 that is not: (0.7 + 0.2) / 4
    scores = scores_of([[0.9, 0.9], [0.9, 0.2]], [[1, 1], [0, 0]])
    (found,) = (one for one in estimate(scores, 400, 0.9, 0) if one.name == "ece")
    assert found.value == pytest.approx((2.7 - 2 + 0.2) / 4, abs=1e-6)
    # images are drawn, not labels: twice the first 0.1, each once 0.225, twice the second 0.55
    assert (found.low, found.high) == pytest.approx((0.1, (0.9 + 0.2) / 2), abs=1e-6)


def test_labels_given_their_very_shares_have_no_error(scores_of):
    scores = scores_of([[0.75, 0.25]] * 4, [[1, 0], [1, 0], [1, 1], [0, 0]])
    assert expected_calibration_error(reliability(scores)) == 0
