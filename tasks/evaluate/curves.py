"""ROC and precision-recall of each class against the others; scikit-learn does the arithmetic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tasks.evaluate.score import Scores
from tasks.measures import Curve

POINTS = 101
DRAWN = 50  # classes whose points are kept, so that a report of many classes stays small
Floats = npt.NDArray[np.float64]


def curves(scores: Scores, classes: tuple[str, ...]) -> tuple[Curve, ...]:
    """Return the curves of each class, in the order of ``classes``.

    Areas are those of the full curves: ROC by the trapezoid rule, average precision without
    interpolation. Points are thinned to at most 101, ends kept: of the ROC at even steps along it
    (|Δx| + |Δy|), of precision and recall at even steps of recall. With more than 50 classes only
    the 50 of lowest average precision have points. A class that no image or every image has gets
    none, and no areas. Several labels an image: each label against its absence.
    """
    found = [_curve(name, _is(scores, k), _given(scores, k)) for k, name in enumerate(classes)]
    known = (curve for curve in found if curve.average_precision is not None)
    drawn = {curve.name for curve in sorted(known, key=_hardness)[:DRAWN]}
    return tuple(curve if curve.name in drawn else _without_points(curve) for curve in found)


def _is(scores: Scores, k: int) -> npt.NDArray[np.bool_]:
    labels_n: npt.NDArray[np.bool_] = (
        scores.labels_n[:, k] == 1 if scores.multi_label else scores.labels_n == k
    )
    return labels_n


def _given(scores: Scores, k: int) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(scores.probabilities_nc[:, k])


def _hardness(curve: Curve) -> float:
    return curve.average_precision or 0.0


def _curve(name: str, true_n: npt.NDArray[np.bool_], given_n: npt.NDArray[np.float32]) -> Curve:
    from sklearn.metrics import auc, precision_recall_curve, roc_curve

    if true_n.all() or not true_n.any():
        return Curve(
            name=name,
            roc_auc=None,
            average_precision=None,
            false_positive_rate=(),
            true_positive_rate=(),
            recall=(),
            precision=(),
        )
    wrong, right, _ = roc_curve(true_n, given_n)
    precision, recall, _ = precision_recall_curve(true_n, given_n, drop_intermediate=True)
    precision, recall = precision[::-1], recall[::-1]  # recall rises from 0
    roc, pr = _thinned(wrong + right), _thinned(recall)
    return Curve(
        name=name,
        roc_auc=float(auc(wrong, right)),
        average_precision=float(np.sum(np.diff(recall) * precision[1:])),
        false_positive_rate=tuple(wrong[roc].tolist()),
        true_positive_rate=tuple(right[roc].tolist()),
        recall=tuple(recall[pr].tolist()),
        precision=tuple(precision[pr].tolist()),
    )


def _thinned(along_m: Floats) -> npt.NDArray[np.int64]:
    """Return which points to keep, at even steps of what rises along the curve; ends always."""
    last = len(along_m) - 1
    if last < POINTS:
        return np.arange(last + 1)
    steps = np.linspace(along_m[0], along_m[-1], POINTS)
    inner = np.searchsorted(along_m, steps[1:-1])
    return np.unique(np.concatenate([[0], inner, [last]]))


def _without_points(curve: Curve) -> Curve:
    fields = ("false_positive_rate", "true_positive_rate", "recall", "precision")
    return curve.model_copy(update=dict.fromkeys(fields, ()))
