"""Whether a confidence of 80% is right in 80% of cases: reliability diagram and its error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tasks.evaluate.score import Scores
from tasks.measures import ReliabilityBin
from tasks.outputs import confidence

BINS = 15  # as Guo et al. 2017


def reliability(scores: Scores, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Return mean confidence and accuracy of the images in each of ``bins`` equal-width bins.

    Bin m holds confidences above (m - 1) / bins and up to m / bins (Guo et al. 2017, section 2).
    The confidence is the probability of the predicted class; of several labels, that all are
    right, which takes them to be independent given the image.
    """
    given_n = confidence(scores.probabilities_nc, scores.multi_label)
    return bins_of(bin_sums(given_n, scores.correct_n, bins))


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
    """Return the mean over images of their bin's |accuracy - confidence|.

    Naeini et al. 2015; Guo et al. 2017, equation 3. From 0 to 1; it depends on the bins.
    """
    gaps = sum(
        one.n * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    )
    return float(gaps / sum(one.n for one in bins))


def bin_gaps(scores: Scores, bins: int = BINS) -> npt.NDArray[np.float64]:
    """Return what each image adds to its bin, right (1) or not (0) less confidence: (bins, n).

    With weights w, the calibration error is the sum over bins of |gaps @ w|, over the sum of w.
    """
    given_n = confidence(scores.probabilities_nc, scores.multi_label).astype(np.float64)
    gaps_mn = np.zeros((bins, len(given_n)))
    gaps_mn[bin_numbers(given_n, bins), np.arange(len(given_n))] = scores.correct_n - given_n
    return gaps_mn


def bin_numbers(confidence_n: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.int64]:
    """Return which bin each confidence falls into, from 0."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner, confidence_n, side="left")
