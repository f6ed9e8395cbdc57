"""Figures with their percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping

import numpy as np

from tasks.evaluate.class_figures import Floats, tallier
from tasks.evaluate.resample import Counts, draw_counts, figure_names, once, weigher
from tasks.evaluate.score import Scores
from tasks.measures import Estimate

log = logging.getLogger(__name__)

RANKED = 2_000_000_000  # images x classes x resamples: average precision takes 20 s or so for them
KEPT = 5_000_000  # classes x resamples: three figures of each class take 120 MB

Weigh = Callable[[Counts], Mapping[str, Floats]]  # figures (..., b) of b weighted test sets


def estimate(scores: Scores, resamples: int, confidence: float, seed: int) -> tuple[Estimate, ...]:
    """Return every figure of ``figure_names`` with its interval.

    The interval holds the middle ``confidence`` of the figure over ``resamples`` resamples of the
    images; None without any. Resampled images are calibrated worse than the test set itself, so
    that the interval of ``ece`` may lie above it. Of data with several labels, a mean average
    precision that would take minutes has no interval, which the log says.
    """
    n, classes = scores.probabilities_nc.shape
    names = figure_names(scores)
    slow = {"mean_average_precision"} & set(names) if n * classes * resamples > RANKED else set()
    for name in slow:
        log.warning("%s has no interval: %d images, %d classes take too long", name, n, classes)
    weigh = weigher(scores, [name for name in names if name not in slow])
    plain = {**weigh(once(n)), **weigher(scores, sorted(slow))(once(n))}
    spread = intervals(weigh, n, resamples, confidence, seed)
    found = (_estimate(name, plain[name], spread.get(name)) for name in names)
    return tuple(one for one in found if one is not None)


def estimate_classes(
    scores: Scores, classes: tuple[str, ...], resamples: int, confidence: float, seed: int
) -> tuple[Estimate, ...]:
    """Return ``recall[CLASS]``, ``precision[CLASS]`` and ``f1[CLASS]`` of the test set's classes.

    A class without an image is left out, and so is a resample without one for the class. There are
    no intervals where they would take hundreds of megabytes, which the log says.
    """
    tally, n = tallier(scores), len(scores.labels_n)
    present = np.flatnonzero(~np.isnan(tally(np.ones((n, 1))).recall[:, 0]))

    def weigh(counts_bn: Counts) -> dict[str, Floats]:
        found = tally(np.ascontiguousarray(counts_bn.T, dtype=np.float64))
        values = {"recall": found.recall, "precision": found.precision, "f1": found.f1}
        return {name: values_cb[present] for name, values_cb in values.items()}

    if len(present) * resamples > KEPT:
        log.warning("the figures of single classes have no intervals: %d classes", len(present))
        resamples = 0
    plain, spread = weigh(once(n)), intervals(weigh, n, resamples, confidence, seed)
    found = (
        _estimate(f"{name}[{classes[k]}]", plain[name][row], _row(spread.get(name), row))
        for row, k in enumerate(present)
        for name in plain
    )
    return tuple(one for one in found if one is not None)


def intervals(
    weigh: Weigh, n: int, resamples: int, confidence: float, seed: int
) -> dict[str, Floats]:
    """Return the percentile interval (2, ...) of each figure that ``weigh`` gives n images.

    Resamples in which a figure is NaN are left out of it. Empty without resamples.
    """
    drawn = [weigh(counts_bn) for counts_bn in draw_counts(n, resamples, seed)]
    if not drawn:
        return {}
    tail = (1 - confidence) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN")  # of a figure that no resample has: NaN
        return {
            name: np.nanquantile(
                np.concatenate([chunk[name] for chunk in drawn], axis=-1), (tail, 1 - tail), axis=-1
            )
            for name in drawn[0]
        }


def _row(interval: Floats | None, row: int) -> Floats | None:
    return None if interval is None else interval[:, row]


def _estimate(name: str, value_1: Floats, interval_2: Floats | None) -> Estimate | None:
    """Return the figure; None where there is none."""
    value = float(value_1[0])
    if np.isnan(value):
        return None
    if interval_2 is None or np.isnan(interval_2).any():
        return Estimate(name=name, value=value, low=None, high=None)
    return Estimate(name=name, value=value, low=float(interval_2[0]), high=float(interval_2[1]))
