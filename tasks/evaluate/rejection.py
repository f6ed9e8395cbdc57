"""Answer only where the network is sure enough (Geifman & El-Yaniv 2017)."""

from __future__ import annotations

import logging
import math

import numpy as np
import numpy.typing as npt

from tasks.evaluate.score import Scores
from tasks.measures import Rejection
from tasks.outputs import confidence

COVERAGES = 20  # thresholds that are tried: those that answer 5%, 10%, ... 100% of validation
DELTA = 0.05  # probability that the error among answered images is above the wanted one after all
UNREACHED = 2.0  # a threshold above every confidence

log = logging.getLogger(__name__)


def choose_rejection(val: Scores, test: Scores, wanted_error: float) -> Rejection:
    """Return the least confidence worth an answer, chosen on ``val``, and what it does to ``test``.

    Of 20 thresholds the lowest is taken at which the upper confidence bound of the error among
    answered validation images is at most ``wanted_error``: the exact binomial bound of Geifman &
    El-Yaniv (2017, lemma 3.1) at 5% over the number of thresholds, so that for images drawn like
    those of validation the error is above ``wanted_error`` with a probability of 5% at most (a
    little more as far as the choice of the epoch has fitted validation). They search by halves,
    which fails where half of the images are too few; thresholds that are all tried do not.

    It is 0 where every image may be answered. Where no threshold will do it is above 1, nothing is
    answered (coverage 0, validation error 0), and the log says so. With several labels an image
    the error is the share of images without all labels right.
    """
    candidates = _candidates(_confidence(val))
    threshold = _lowest(candidates, val, wanted_error)
    if threshold == UNREACHED:
        log.warning(
            "no confidence was shown to keep the error among answered images to %g: nothing is "
            "answered; without any error it takes %d answered validation images, and there are %d",
            wanted_error,
            math.ceil(math.log(DELTA / len(candidates)) / math.log1p(-wanted_error)),
            len(val.labels_n),
        )
    val_coverage, val_error = _outcome(val, threshold)
    test_coverage, test_error = _outcome(test, threshold)
    return Rejection(
        wanted_error=wanted_error,
        threshold=threshold,
        val_coverage=val_coverage,
        val_error=val_error or 0.0,
        test_coverage=test_coverage,
        test_error=test_error,
    )


def served_rejection(test: Scores, threshold: float) -> Rejection:
    """Return what the threshold that a version is served with does to ``test``."""
    coverage, error = _outcome(test, threshold)
    return Rejection(
        wanted_error=None,
        threshold=threshold,
        val_coverage=None,
        val_error=None,
        test_coverage=coverage,
        test_error=error,
    )


def _confidence(scores: Scores) -> npt.NDArray[np.floating]:
    """Return float64 (n,), as the served model compares it."""
    return confidence(scores.probabilities_nc.astype(np.float64), scores.multi_label)


def _outcome(scores: Scores, threshold: float) -> tuple[float, float | None]:
    """Return the share of images that are answered, and the error among them."""
    answered_n = _confidence(scores) >= threshold
    if not answered_n.any():
        return 0.0, None
    return float(answered_n.mean()), float(1 - scores.correct_n[answered_n].mean())


def _lowest(candidates: list[float], val: Scores, wanted_error: float) -> float:
    confidence_n = _confidence(val)
    for threshold in candidates:
        wrong_a = ~val.correct_n[confidence_n >= threshold]
        if _bound(int(wrong_a.sum()), len(wrong_a), DELTA / len(candidates)) <= wanted_error:
            return threshold
    return UNREACHED


def _candidates(confidence_n: npt.NDArray[np.floating]) -> list[float]:
    """Return thresholds in rising order, each half-way between two confidences that occur.

    There the float32 that is evaluated and the float64 that is served fall on the same side.
    """
    values = np.unique(confidence_n)
    middles = np.concatenate(([0.0], (values[:-1] + values[1:]) / 2))
    n = len(confidence_n)
    answered = [-(-n * part // COVERAGES) for part in range(1, COVERAGES + 1)]  # rounded up
    least = np.sort(confidence_n)[::-1][np.array(answered) - 1]
    thresholds: list[float] = np.unique(middles[np.searchsorted(values, least)]).tolist()
    return thresholds


def _bound(wrong: int, n: int, delta: float) -> float:
    """Return what the error exceeds with probability ``delta`` at most (Clopper & Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(wrong, n, alternative="less").proportion_ci(1 - delta, method="exact")
    return float(interval.high)
