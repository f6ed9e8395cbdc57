"""Whether a confidence of 80% is right in 80% of cases: reliability diagram and its error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tasks.evaluate.score import Scores
from tasks.measures import ReliabilityBin
from tasks.outputs import confidence

BINS = 15  # as Guo et al. 2017
_BLOCK = 1 << 17  # probabilities that are worked on at once: 1 MB in float64


def reliability(scores: Scores, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Return mean confidence and accuracy of the decisions in each of ``bins`` equal-width bins.

    Bin m holds confidences above (m - 1) / bins and up to m / bins (Guo et al. 2017, section 2).
    The confidence is the probability of the predicted class. Of several labels each label of each
    image is a decision of its own, all pooled: the confidence is the label's probability, and
    the accuracy the share of decisions in which the image has the label (Naeini et al. 2015, whose
    classes are two). So a bin's ``n`` counts labels, of which there are n times c.
    """
    sums = (bin_sums(given.ravel(), right.ravel(), bins) for _, given, right in _decisions(scores))
    return bins_of(np.sum([*sums], axis=0))


def _decisions(
    scores: Scores,
) -> Iterator[tuple[slice, npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    """Yield rows, and the confidence and outcome (rows, d) of their d decisions; d 1 or c."""
    n, c = scores.probabilities_nc.shape
    step = max(1, _BLOCK // max(1, c))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        given = scores.probabilities_nc[rows]
        if scores.multi_label:
            yield rows, given.astype(np.float64), scores.labels_n[rows] == 1
        else:
            right = scores.predictions_n[rows] == scores.labels_n[rows]
            yield rows, confidence(given, False).astype(np.float64)[:, None], right[:, None]


def bin_sums(
    given_n: npt.NDArray[np.floating], right_n: npt.NDArray[np.bool_], bins: int = BINS
) -> npt.NDArray[np.float64]:
    """Return of each bin (3, bins): how many there are, their confidences' sum, how many right."""
    exact_n = given_n.astype(np.float64)
    bins_n = bin_numbers(exact_n, bins)
    each = (np.bincount(bins_n, weights, minlength=bins) for weights in (None, exact_n, right_n))
    return np.stack([np.asarray(sums_m, dtype=np.float64) for sums_m in each])


def bins_of(sums_3m: npt.NDArray[np.float64]) -> tuple[ReliabilityBin, ...]:
    """Return the bins that have these ``bin_sums``."""
    bins = sums_3m.shape[1]
    return tuple(
        ReliabilityBin(
            low=m / bins,
            high=(m + 1) / bins,
            n=int(n),
            confidence=float(given / n) if n else None,
            accuracy=float(right / n) if n else None,
        )
        for m, (n, given, right) in enumerate(sums_3m.T)
    )


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the mean over decisions of their bin's |accuracy - confidence|.

    Naeini et al. 2015; Guo et al. 2017, equation 3. From 0 to 1; it depends on the bins.
    """
    gaps = sum(
        one.n * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    )
    return float(gaps / sum(one.n for one in bins))


def bin_gaps(scores: Scores, bins: int = BINS) -> npt.NDArray[np.float64]:
    """Return what each image adds to its bins, right (1) or not (0) less confidence: (bins, n).

    The mean over its decisions, one or with several labels c. With weights w of the images, the
    calibration error is the sum over bins of |gaps @ w|, over the sum of w.
    """
    gaps_mn = np.zeros((bins, len(scores.labels_n)))
    for rows, given, right in _decisions(scores):
        r, d = given.shape
        cells = bin_numbers(given, bins) * r + np.arange(r)[:, None]
        sums = np.bincount(cells.ravel(), (right - given).ravel(), minlength=bins * r)
        gaps_mn[:, rows] = sums.reshape(bins, r) / d
    return gaps_mn


def bin_numbers(confidence_n: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.int64]:
    """Return which bin each confidence falls into, from 0."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner, confidence_n, side="left")
