"""ROC AUC and average precision of each class, of many weighted test sets at once.

Both areas depend on the class's own images and on how many others stand between them, by their
probability for the class. That is one sparse product of the counts, whatever the resample: nothing
is sorted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tasks.evaluate.class_figures import Figure, Floats, mean_of_known, ratio
from tasks.evaluate.score import Scores

if TYPE_CHECKING:
    from scipy.sparse import csr_array

EXACT = 2**24  # counts up to which float32, twice as quick as float64, adds whole numbers exactly
HELD = 2**25  # images x classes whose rankings are kept together: 170 MB
AT_ONCE = 64  # test sets: their counts of 10,000 images stay in a processor's cache
STEP = 100  # times as long takes one of a class's images as one of the others

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Ranking:
    """The images by their probability of one class.

    A step is a probability that an image of the class has, from the lowest. Rows of ``sums``
    (3 s, n) add up the counts of the class's images at each of s steps, of the others at each, and
    of the others above it and below the next. The others below every step need no row.
    """

    sums: csr_array

    def areas(self, weights_nb: npt.NDArray[np.floating], total_b: Floats) -> Floats:
        """Return ROC AUC and average precision (2, b) of each test set of ``total_b`` images.

        The AUC is the chance that an image of the class has a higher probability than another one,
        ties counting half (Mann & Whitney 1947); NaN without both kinds. Average precision is the
        mean precision at the class's images, without interpolation; NaN without any. Images of
        equal probability share a threshold, as in scikit-learn.
        """
        true_sb, equal_sb, between_sb = np.split(
            np.asarray(self.sums @ weights_nb, dtype=np.float64), 3
        )
        found_sb = _from_above(true_sb)
        passed_sb = _from_above(equal_sb + between_sb)
        true_b = true_sb.sum(axis=0)
        others_b = total_b - true_b
        below_sb = others_b - passed_sb + equal_sb / 2
        precision_sb = found_sb / np.maximum(found_sb + passed_sb, 1)
        return np.stack(
            [
                ratio((true_sb * below_sb).sum(axis=0), true_b * others_b),
                ratio((true_sb * precision_sb).sum(axis=0), true_b),
            ]
        )


def rankings(scores: Scores, some: range | None = None) -> Iterator[Ranking]:
    """Yield the ranking of each class, or of some; kept, each takes at most 5 bytes an image.

    And, one label an image, 12 bytes an image over all classes.
    """
    for k in range(scores.probabilities_nc.shape[1]) if some is None else some:
        yield _ranking(of_class(scores, k), np.ascontiguousarray(scores.probabilities_nc[:, k]))


def blocks(scores: Scores) -> Iterator[range]:
    """Yield the classes, so many together that their rankings keep ``HELD`` counts, or one."""
    n, c = scores.probabilities_nc.shape
    step = max(1, HELD // max(1, n))
    return (range(start, min(start + step, c)) for start in range(0, c, step))


def work(scores: Scores) -> int:
    """Return what the areas of one resample take, in counts added up: a billion in 0.4 s or so."""
    n, c = len(scores.labels_n), int(scores.probabilities_nc.shape[1])
    true = int(scores.labels_n.sum()) if scores.multi_label else n
    return n * c + STEP * true


def of_class(scores: Scores, k: int) -> Bools:
    """Return which images are of class ``k``, or have it among their labels: (n,)."""
    is_n: Bools = scores.labels_n[:, k] == 1 if scores.multi_label else scores.labels_n == k
    return is_n


def class_areas(
    ranked: Iterable[Ranking], counts_nb: npt.NDArray[np.integer] | npt.NDArray[np.floating]
) -> Floats:
    """Return ROC AUC and average precision (2, c, b) of each class in each of b test sets.

    ``counts_nb`` (n, b) says how often each image is in each of them.
    """
    total_b = counts_nb.sum(axis=0).astype(np.float64)
    exact: type[np.floating] = np.float32 if total_b.max() < EXACT else np.float64
    some = [slice(start, start + AT_ONCE) for start in range(0, len(total_b), AT_ONCE)]
    blocks = [(np.ascontiguousarray(counts_nb[:, one], exact), total_b[one]) for one in some]
    of_each = [
        np.hstack([ranking.areas(weights_nb, here_b) for weights_nb, here_b in blocks])
        for ranking in ranked
    ]
    return np.stack(of_each, axis=1)


def mean_average_precision(scores: Scores) -> Figure:
    """Mean over the classes in a test set of the average precision.

    Each chunk of resamples needs every ranking: all are kept, at 5 bytes an image and class.
    """
    kept = list(rankings(scores))
    return lambda counts_nb: mean_of_known(class_areas(kept, counts_nb)[1])


def _ranking(true_n: Bools, given_n: npt.NDArray[np.float32]) -> Ranking:
    from scipy.sparse import csr_array

    steps_s = np.unique(given_n[true_n])
    s, n = len(steps_s), len(given_n)
    near_m = np.flatnonzero(given_n >= steps_s[0]) if s else np.empty(0, dtype=np.int64)
    below_m = np.searchsorted(steps_s, given_n[near_m], side="left")
    upto_m = np.searchsorted(steps_s, given_n[near_m], side="right")
    others_m = np.where(upto_m > below_m, s + below_m, 2 * s + upto_m - 1)
    rows_m = np.where(true_n[near_m], below_m, others_m)
    ones_m = np.ones(len(near_m), dtype=np.int8)
    place = (rows_m.astype(np.int32), near_m.astype(np.int32))
    return Ranking(csr_array((ones_m, place), shape=(3 * s, n)))


def _from_above(values_sb: Floats) -> Floats:
    """Return the sums of each row and all after it."""
    return np.cumsum(values_sb[::-1], axis=0)[::-1]
