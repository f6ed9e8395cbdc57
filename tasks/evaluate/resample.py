"""Resampled test sets: an image counts as often as it was drawn, and no score is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tasks.evaluate.areas import mean_average_precision
from tasks.evaluate.class_figures import (
    Figure,
    Floats,
    Tallies,
    balanced_accuracy,
    balanced_label_accuracy,
    macro_f1,
    micro_f1,
    tallier,
)
from tasks.evaluate.image_values import image_values
from tasks.evaluate.reliability import bin_gaps
from tasks.evaluate.score import Scores

Counts = npt.NDArray[np.int64]
CHUNK = 2**21  # counts at once: 16 MiB
WIDEST = 1000  # resamples at once, since figures of many classes have a row each
TOP = (2, 3, 5, 10)


def draw_counts(n: int, resamples: int, seed: int) -> Iterator[Counts]:
    """Yield, some resamples at a time, how often each of n images is drawn: int64 (b, n).

    Each row is multinomial and sums to n. With the same seed these are the very resamples of
    ``scipy.stats.bootstrap``; the same ``n``, ``resamples`` and ``seed`` give the same ones.
    """
    rng = np.random.default_rng(seed)
    step = max(1, min(WIDEST, CHUNK // n))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn_bn = rng.integers(0, n, size=(rows, n))
        drawn_bn += n * np.arange(rows)[:, None]
        yield np.bincount(drawn_bn.ravel(), minlength=rows * n).reshape(rows, n)


def once(n: int) -> Counts:
    """Return the counts (1, n) of the test set as it is: each image once."""
    return np.ones((1, n), dtype=np.int64)


def figure_names(scores: Scores) -> tuple[str, ...]:
    """Return the name of every figure that these scores have, in the order of the report."""
    if scores.multi_label:
        return (
            *("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "mean_average_precision"),
            *("hamming_loss", "log_loss", "brier", "ece"),
        )
    tops = (f"top_{k}" for k in TOP if k < scores.probabilities_nc.shape[1])
    means = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1")
    return (*means, *tops, "log_loss", "brier", "ece")


def figures(scores: Scores, names: Sequence[str], counts_bn: Counts) -> dict[str, Floats]:
    """Return each named figure of b test sets in which image i is ``counts_bn[:, i]`` times: (b,).

    Counts of one give the plain figure. A mean over classes is over those in the test set; NaN
    where none is (a multi-label test set without a label). ``ece`` has 15 bins, and
    of several labels is over all labels of all images (``reliability``). Raises ``KeyError``
    for a name that ``figure_names`` does not give.
    """
    return weigher(scores, names)(counts_bn)


def weigher(scores: Scores, names: Sequence[str]) -> Callable[[Counts], dict[str, Floats]]:
    """Return ``figures`` as a function of the counts alone.

    For many chunks: what no count changes is worked out once, and each chunk's classes are counted
    once for all figures that are means over them.
    """
    of_classes = SEVERAL_LABELS if scores.multi_label else ONE_LABEL
    counted = [name for name in names if name in of_classes]
    tally = tallier(scores) if counted else None
    prepared = {name: _figure(scores, name) for name in names if name not in of_classes}

    def weigh(counts_bn: Counts) -> dict[str, Floats]:
        counts_nb = np.ascontiguousarray(counts_bn.T, dtype=np.float64)
        found = {name: figure(counts_nb) for name, figure in prepared.items()}
        if tally is not None:
            tallies = tally(counts_nb)
            found |= {name: of_classes[name](tallies) for name in counted}
        return found

    return weigh


def _figure(scores: Scores, name: str) -> Figure:
    if name == "ece":
        return _calibration_error(scores)
    if name == "mean_average_precision" and scores.multi_label:
        return mean_average_precision(scores)
    values_n = image_values(scores, name)
    return lambda counts_nb: values_n @ counts_nb / counts_nb.sum(axis=0)


def _calibration_error(scores: Scores) -> Figure:
    gaps_mn = bin_gaps(scores)

    def figure(counts_nb: Floats) -> Floats:
        error_b: Floats = np.abs(gaps_mn @ counts_nb).sum(axis=0) / counts_nb.sum(axis=0)
        return error_b

    return figure


ONE_LABEL: dict[str, Callable[[Tallies], Floats]] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
}
SEVERAL_LABELS: dict[str, Callable[[Tallies], Floats]] = {
    "balanced_accuracy": balanced_label_accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
}
