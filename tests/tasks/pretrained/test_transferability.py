"""The scores are what their definitions say, and rank what separates classes better higher."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from tasks.pretrained.transferability import h_score, knn_accuracy, logme

SCORES = {
    "logme": logme,
    "h_score": h_score,
    "knn": lambda features_nd, labels_n: knn_accuracy(features_nd, labels_n, 5),
}


def blobs(n: int, d: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return noise around three class means that are ``apart`` standard deviations wide."""
    rng = np.random.default_rng(seed)
    labels_n = np.arange(n) % 3
    means_cd = apart * rng.standard_normal((3, d))
    return rng.standard_normal((n, d)) + means_cd[labels_n], labels_n


def loss_of(features_nd, target_n):
    """Return minus the log evidence: with the weights integrated out, y ~ N(0, I/beta + FF'/alpha).

    Another form of You et al. 2021, section 4, which has no inverse of the weights' precision.
    """
    gram_nn = features_nd @ features_nd.T

    def loss(logs) -> float:
        alpha, beta = np.exp(np.clip(logs, -40, 40))
        covariance_nn = np.eye(len(target_n)) / beta + gram_nn / alpha
        return -multivariate_normal.logpdf(target_n, cov=covariance_nn)

    return loss


def brute_force_logme(features_nd, labels_n) -> float:
    found = [
        min(
            minimize(loss_of(features_nd, labels_n == label), start, method="Nelder-Mead").fun
            for start in ((0.0, 1.0), (3.0, 4.0))
        )
        for label in np.unique(labels_n)
    ]
    return -float(np.mean(found)) / len(labels_n)


@pytest.mark.parametrize(
    ("n", "d", "apart"),
    [(60, 5, 0.3), (60, 5, 1.0), (60, 5, 5.0), (40, 40, 1.0), (40, 40, 5.0), (30, 60, 2.0)],
)
def test_logme_is_the_highest_evidence_there_is(n: int, d: int, apart: float):
    features_nd, labels_n = blobs(n, d, apart)
    assert logme(features_nd, labels_n) == pytest.approx(
        brute_force_logme(features_nd, labels_n), abs=1e-6
    )


def test_logme_knows_no_scale_and_no_dead_feature():
    features_nd, labels_n = blobs(50, 8, 1.0)
    expected = logme(features_nd, labels_n)
    assert logme(1e4 * features_nd, labels_n) == pytest.approx(expected, abs=1e-6)
    assert logme(1e-4 * features_nd, labels_n) == pytest.approx(expected, abs=1e-6)
    dead_nd = np.hstack([features_nd, np.zeros((50, 3))])
    assert logme(dead_nd, labels_n) == pytest.approx(expected, abs=1e-6)


def plain_h_score(features_nd, labels_n, covariance_dd) -> float:
    """Return tr(pinv(cov_f) cov_z) by the matrices themselves."""
    means_nd = np.zeros_like(features_nd)
    for label in np.unique(labels_n):
        means_nd[labels_n == label] = features_nd[labels_n == label].mean(axis=0)
    between_dd = np.cov(means_nd, rowvar=False, bias=True)
    return float(np.trace(np.linalg.pinv(covariance_dd) @ between_dd))


def test_h_score_is_the_plain_one_where_images_abound():
    features_nd, labels_n = blobs(30_000, 6, 1.0)
    plain = plain_h_score(features_nd, labels_n, np.cov(features_nd, rowvar=False, bias=True))
    assert h_score(features_nd, labels_n) == pytest.approx(plain, rel=1e-3)
    assert 0 < plain < 2


@pytest.mark.parametrize(("n", "d"), [(200, 10), (30, 80)])
def test_h_score_shrinks_as_ledoit_and_wolf_do(n: int, d: int):
    features_nd, labels_n = blobs(n, d, 1.0)
    shrunk = LedoitWolf().fit(features_nd)
    expected = plain_h_score(features_nd, labels_n, shrunk.covariance_)
    expected *= 1 - shrunk.shrinkage_
    assert h_score(features_nd, labels_n) == pytest.approx(expected, rel=1e-9)


def test_h_score_of_two_gaussians_is_the_closed_form():
    # f = ±m + noise of variance 1: cov(E[f|y]) = m², cov(f) = 1 + m²
    rng = np.random.default_rng(0)
    labels_n = np.arange(100_000) % 2
    features_nd = rng.standard_normal((100_000, 1)) + np.where(labels_n, 2.0, -2.0)[:, None]
    assert h_score(features_nd, labels_n) == pytest.approx(4 / 5, abs=0.005)


@pytest.mark.parametrize("neighbours", [1, 4, 5])
def test_knn_is_scikit_learns_leave_one_out(neighbours: int):
    features_nd, labels_n = blobs(80, 4, 0.7)
    classifier = KNeighborsClassifier(neighbours, metric="cosine")
    expected = cross_val_score(classifier, features_nd, labels_n, cv=LeaveOneOut()).mean()
    assert 0.4 < expected < 0.95  # neither hopeless nor trivial, so that a slip would show
    assert knn_accuracy(features_nd, labels_n, neighbours) == pytest.approx(expected)


def test_knn_makes_do_with_few_images():
    features_nd = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    assert knn_accuracy(features_nd, np.array([0, 0, 1]), 50) == pytest.approx(2 / 3)  # ties to 0


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("d", [10, 200])
def test_features_that_separate_better_score_higher(score: str, d: int):
    found = [SCORES[score](*blobs(90, d, apart)) for apart in (0.0, 0.3, 1.0)]
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("score", SCORES)
def test_a_class_number_without_images_changes_nothing(score: str):
    features_nd, labels_n = blobs(60, 5, 1.0)
    gaps_n = np.array([1, 4, 7])[labels_n]
    assert SCORES[score](features_nd, gaps_n) == pytest.approx(SCORES[score](features_nd, labels_n))


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_features_that_say_nothing_score_lowest(constant: float):
    features_nd, labels_n = blobs(60, 5, 1.0)
    same_nd = np.full_like(features_nd, constant)
    assert h_score(same_nd, labels_n) == 0
    assert np.isfinite(logme(same_nd, labels_n))
    for score in SCORES.values():
        assert score(same_nd, labels_n) < score(features_nd, labels_n)
