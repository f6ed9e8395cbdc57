"""Figures with their percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np

from tasks.evaluate.areas import blocks, class_areas, rankings, work
from tasks.evaluate.class_figures import Floats, mean_of_known, tallier
from tasks.evaluate.resample import Counts, draw_counts, figure_names, once, weigher
from tasks.evaluate.score import Scores
from tasks.measures import Estimate

log = logging.getLogger(__name__)

LONGEST = 60_000_000_000  # work of all resamples' areas: 20 s or so of one processor
IN_TAIL = 5  # resamples beyond each end of an interval; of fewer it would be chance
KEPT = 5_000_000  # classes x resamples: three figures of each class take 120 MB

Weigh = Callable[[Counts], Mapping[str, Floats]]  # figures (..., b) of b weighted test sets


def estimate(scores: Scores, resamples: int, confidence: float, seed: int) -> tuple[Estimate, ...]:
    """Return every figure of ``figure_names`` with its interval, but those of ``estimate_areas``.

    The interval holds the middle ``confidence`` of the figure over ``resamples`` resamples of the
    images; None without any. Resampled images are calibrated worse than the test set itself, so
    that the interval of ``ece`` may lie above it.
    """
    names = [name for name in figure_names(scores) if name != "mean_average_precision"]
    return estimate_some(scores, names, resamples, confidence, seed)


def estimate_some(
    scores: Scores, names: Sequence[str], resamples: int, confidence: float, seed: int
) -> tuple[Estimate, ...]:
    """Return the named figures as ``estimate`` does; one that these scores have not is left out."""
    n, weigh = len(scores.labels_n), weigher(scores, names)
    plain, spread = weigh(once(n)), intervals(weigh, n, resamples, confidence, seed)
    found = (_estimate(name, plain[name], spread.get(name), resamples) for name in names)
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
        _estimate(f"{name}[{classes[k]}]", plain[name][row], _row(spread.get(name), row), resamples)
        for row, k in enumerate(present)
        for name in plain
    )
    return tuple(one for one in found if one is not None)


def estimate_areas(
    scores: Scores, classes: tuple[str, ...], resamples: int, confidence: float, seed: int
) -> tuple[Estimate, ...]:
    """Return ``roc_auc[CLASS]`` and ``average_precision[CLASS]``, and first the mean of each.

    They are those of ``tasks.evaluate.areas``. A class that no image or every image has is left
    out; a mean is over the classes of the test set or resample at hand that have the area. An image
    drawn twice lifts the average precision of a small class, whose interval may lie above it. What
    would take minutes has the interval of fewer resamples, or none, which the log says and
    ``Estimate.resamples`` tells.
    """
    drawn = affordable(scores, resamples, confidence)
    plain_2c1, drawn_2cb = _areas(scores, drawn, seed)
    plain = _named(plain_2c1)
    spread = percentiles([_named(drawn_2cb)] if drawn else [], confidence)
    found = [
        _estimate(name, plain[name], spread.get(name), drawn)
        for name in ("mean_roc_auc", "mean_average_precision")
    ]
    found += [
        _estimate(f"{name}[{classes[k]}]", plain[name][k], _row(spread.get(name), k), drawn)
        for k in np.flatnonzero(~np.isnan(plain["roc_auc"][:, 0]))
        for name in ("roc_auc", "average_precision")
    ]
    return tuple(one for one in found if one is not None)


def _areas(scores: Scores, drawn: int, seed: int) -> tuple[Floats, Floats]:
    """Return the areas (2, c, 1) of the test set and (2, c, drawn) of its resamples.

    The classes are ranked a block at a time, so that memory is bounded; each block draws the same.
    """
    found = [_areas_of(scores, some, drawn, seed) for some in blocks(scores)]
    areas_2cb = np.concatenate(found, axis=1)
    return areas_2cb[..., :1], areas_2cb[..., 1:]


def _areas_of(scores: Scores, some: range, drawn: int, seed: int) -> Floats:
    n, ranked = len(scores.labels_n), list(rankings(scores, some))
    sets = chain([once(n)], draw_counts(n, drawn, seed))
    return np.concatenate([class_areas(ranked, counts_bn.T) for counts_bn in sets], axis=-1)


def _named(areas_2cb: Floats) -> dict[str, Floats]:
    """Return the areas by name, and the mean of each over the classes that have it."""
    roc_cb, precision_cb = areas_2cb
    means = {"mean_roc_auc": roc_cb, "mean_average_precision": precision_cb}
    single = {"roc_auc": roc_cb, "average_precision": precision_cb}
    return {name: mean_of_known(values_cb) for name, values_cb in means.items()} | single


def affordable(scores: Scores, resamples: int, confidence: float) -> int:
    """Return how many of ``resamples`` the areas can take in 20 s or so; 0 if too few."""
    drawn = min(resamples, LONGEST // work(scores))
    if drawn < min(resamples, round(2 * IN_TAIL / (1 - confidence))):
        drawn = 0
    if drawn < resamples:
        log.warning(
            "the intervals of ROC AUC and average precision are of %d resamples instead of %d: "
            "%d images, %d classes take long",
            drawn,
            resamples,
            *scores.probabilities_nc.shape,
        )
    return drawn


def intervals(
    weigh: Weigh, n: int, resamples: int, confidence: float, seed: int
) -> dict[str, Floats]:
    """Return the percentile interval (2, ...) of each figure that ``weigh`` gives n images."""
    return percentiles([weigh(drawn) for drawn in draw_counts(n, resamples, seed)], confidence)


def percentiles(drawn: Sequence[Mapping[str, Floats]], confidence: float) -> dict[str, Floats]:
    """Return the percentile interval (2, ...) of each figure (..., b) over chunks of resamples.

    Resamples in which a figure is NaN are left out of it. Empty without resamples.
    """
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


def _row(interval: Floats | None, row: int | np.integer) -> Floats | None:
    return None if interval is None else interval[:, row]


def _estimate(
    name: str, value_1: Floats, interval_2: Floats | None, resamples: int
) -> Estimate | None:
    """Return the figure; None where there is none."""
    value = float(value_1[0])
    if np.isnan(value):
        return None
    if interval_2 is None or np.isnan(interval_2).any():
        return Estimate(name=name, value=value, low=None, high=None)
    low, high = (float(end) for end in interval_2)
    return Estimate(name=name, value=value, low=low, high=high, resamples=resamples)
