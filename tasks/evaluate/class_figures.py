"""Figures that are means over classes, of many weighted test sets at once.

``counts_nb`` is float64 (n, b): how often each of n images is in each of b test sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tasks.evaluate.score import Scores

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Figure = Callable[[Floats], Floats]  # from counts_nb to the figure of each test set, (b,)


@dataclass(frozen=True)
class Tallies:
    """Images of each class in each of b test sets, (c, b)."""

    hits: Floats  # of the class, and predicted so
    truth: Floats
    predicted: Floats
    total: Floats  # (b,)

    @property
    def recall(self) -> Floats:
        """Share of a class's images that are found; NaN without any."""
        return ratio(self.hits, self.truth)

    @property
    def precision(self) -> Floats:
        """Share of the predictions that are right, 0 without any; NaN without an image."""
        return self._of_present(self.hits / np.maximum(self.predicted, 1))

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall; NaN without an image."""
        return self._of_present(2 * self.hits / np.maximum(self.truth + self.predicted, 1))

    @property
    def specificity(self) -> Floats:
        """Share of the images not of a class that are not predicted so; NaN without any."""
        absent = self.total - self.truth
        return ratio(absent - self.predicted + self.hits, absent)

    def _of_present(self, values_cb: Floats) -> Floats:
        return np.where(self.truth > 0, values_cb, np.nan)


def tallier(scores: Scores) -> Callable[[Floats], Tallies]:
    """Return what counts each class's images, for many chunks of ``counts_nb``.

    Products with sparse one-hot matrices: work and memory grow with the labels, not with n times c.
    """
    classes = scores.probabilities_nc.shape[1]
    truth_cn, predicted_cn = (
        _membership(values_n, classes) for values_n in (scores.labels_n, scores.predictions_n)
    )
    hits_cn = truth_cn.multiply(predicted_cn).tocsr()

    def tally(counts_nb: Floats) -> Tallies:
        return Tallies(
            hits=hits_cn @ counts_nb,
            truth=truth_cn @ counts_nb,
            predicted=predicted_cn @ counts_nb,
            total=counts_nb.sum(axis=0),
        )

    return tally


def _membership(values_n: npt.NDArray[np.int64], classes: int) -> csr_array:
    """Return which images are of which class, sparse (c, n); from (n,), or 0 and 1 (n, c)."""
    from scipy.sparse import csr_array

    if values_n.ndim > 1:
        return csr_array(values_n.T.astype(np.float64))
    n = len(values_n)
    return csr_array((np.ones(n), (values_n, np.arange(n))), shape=(classes, n))


def balanced_accuracy(found: Tallies) -> Floats:
    """Mean recall of the classes that are in a test set."""
    return mean_of_known(found.recall)


def balanced_label_accuracy(found: Tallies) -> Floats:
    """Mean over the labels in a test set of recall and specificity, those that there are."""
    both_2cb = np.stack([found.recall, found.specificity])
    halves_cb = mean_of_known(both_2cb)
    return mean_of_known(np.where(found.truth > 0, halves_cb, np.nan))


def macro_f1(found: Tallies) -> Floats:
    """Mean F1 of the classes that are in a test set."""
    return mean_of_known(found.f1)


def micro_f1(found: Tallies) -> Floats:
    """F1 of all labels taken together; 0 where nothing is predicted and nothing true."""
    either_b = (found.truth + found.predicted).sum(axis=0)
    micro_b: Floats = 2 * found.hits.sum(axis=0) / np.maximum(either_b, 1)
    return micro_b


def ratio(part: Floats, whole: Floats) -> Floats:
    """Divide; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def mean_of_known(values: Floats) -> Floats:
    """Return the mean over the first axis of what is not NaN; NaN where all are."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0).astype(np.float64))
