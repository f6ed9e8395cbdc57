"""Figures that are the mean of one value an image: what each image adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from tasks.evaluate.score import Scores

Values = npt.NDArray[np.float64]
BLOCK = 2**21  # probabilities that are worked on at once: 16 MiB


def image_values(scores: Scores, name: str) -> Values:
    """Return what each image adds to the mean that figure ``name`` is, float64 (n,).

    ``top_K`` is 1 where the true class is among the K most probable, ties as scikit-learn breaks
    them. ``log_loss`` is as ``Scores.log_loss`` says, in nats. ``brier`` is the sum over classes of
    the squared difference to 0 or 1 (Brier 1950, from 0 to 2: with two classes twice what
    scikit-learn gives), of several labels their mean. Raises ``KeyError`` for another name.
    """
    if name.startswith("top_"):
        return (_rank(scores) < int(name.removeprefix("top_"))).astype(np.float64)
    return SEVERAL_LABELS[name](scores) if scores.multi_label else ONE_LABEL[name](scores)


def _rows(scores: Scores) -> Iterator[tuple[Values, npt.NDArray[np.int64]]]:
    """Yield probabilities and labels, some images at a time, so that memory stays flat."""
    n, classes = scores.probabilities_nc.shape
    step = max(1, BLOCK // classes)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        yield scores.probabilities_nc[rows].astype(np.float64), scores.labels_n[rows]


def _rank(scores: Scores) -> npt.NDArray[np.int64]:
    """Return how many classes come before the true one; of equals the later comes first."""
    ranks = []
    for given_nc, labels_n in _rows(scores):
        true_n1 = np.take_along_axis(given_nc, labels_n[:, None], axis=1)
        later_nc = np.arange(given_nc.shape[1]) > labels_n[:, None]
        ranks.append(np.sum((given_nc > true_n1) | ((given_nc == true_n1) & later_nc), axis=1))
    return np.concatenate(ranks)


def _right(scores: Scores) -> Values:
    return scores.correct_n.astype(np.float64)


def _log_losses(scores: Scores) -> Values:
    return scores.log_losses_n


def _squares(scores: Scores) -> Values:
    parts = []
    for given_nc, labels_n in _rows(scores):
        given_nc[np.arange(len(labels_n)), labels_n] -= 1
        parts.append(np.square(given_nc).sum(axis=1))
    return np.concatenate(parts)


def _mean_squares(scores: Scores) -> Values:
    return np.concatenate([np.square(p_nc - y_nc).mean(axis=1) for p_nc, y_nc in _rows(scores)])


def _wrong_share(scores: Scores) -> Values:
    wrong_n: Values = np.not_equal(scores.predictions_n, scores.labels_n).mean(axis=1)
    return wrong_n


# of one label, true and false positives are the same images: micro F1 is the accuracy
ONE_LABEL: dict[str, Callable[[Scores], Values]] = {
    "accuracy": _right,
    "micro_f1": _right,
    "log_loss": _log_losses,
    "brier": _squares,
}
SEVERAL_LABELS: dict[str, Callable[[Scores], Values]] = {
    "accuracy": _right,
    "hamming_loss": _wrong_share,
    "log_loss": _log_losses,
    "brier": _mean_squares,
}
