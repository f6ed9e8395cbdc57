"""ROC and precision-recall of each class against the others; scikit-learn finds their points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tasks.evaluate.areas import of_class
from tasks.evaluate.score import Scores
from tasks.measures import Curve, Estimate

POINTS = 101
DRAWN = 50  # classes whose points are kept, so that a report of many classes stays small
Floats = npt.NDArray[np.float64]


def curves(
    scores: Scores, classes: tuple[str, ...], areas: Sequence[Estimate]
) -> tuple[Curve, ...]:
    """Return the curves of each class, in the order of ``classes``.

    ``areas`` are those of ``estimate_areas``: of the full curves, ROC by the trapezoid rule,
    average precision without interpolation. Points are thinned to at most 101, ends kept: of the
    ROC at even steps along it (|Δx| + |Δy|), of precision and recall at even steps of recall. With
    more than 50 classes only the 50 of lowest average precision have points. A class that no image
    or every image has gets none, and no areas. Several labels an image: each label against its
    absence.
    """
    known = {one.name: one.value for one in areas}
    found = [_bare(name, known) for name in classes]
    hardest = sorted((curve for curve in found if _has_areas(curve)), key=_hardness)[:DRAWN]
    drawn = {curve.name for curve in hardest}
    return tuple(
        _with_points(curve, scores, k) if curve.name in drawn else curve
        for k, curve in enumerate(found)
    )


def _bare(name: str, areas: Mapping[str, float]) -> Curve:
    return Curve(
        name=name,
        roc_auc=areas.get(f"roc_auc[{name}]"),
        average_precision=areas.get(f"average_precision[{name}]"),
        false_positive_rate=(),
        true_positive_rate=(),
        recall=(),
        precision=(),
    )


def _has_areas(curve: Curve) -> bool:
    return curve.average_precision is not None


def _hardness(curve: Curve) -> float:
    return curve.average_precision or 0.0


def _with_points(curve: Curve, scores: Scores, k: int) -> Curve:
    from sklearn.metrics import precision_recall_curve, roc_curve

    true_n = of_class(scores, k)
    given_n = np.ascontiguousarray(scores.probabilities_nc[:, k])
    wrong, right, _ = roc_curve(true_n, given_n)
    precision, recall, _ = precision_recall_curve(true_n, given_n, drop_intermediate=True)
    precision, recall = precision[::-1], recall[::-1]  # recall rises from 0
    roc, pr = _thinned(wrong + right), _thinned(recall)
    points = {
        "false_positive_rate": tuple(wrong[roc].tolist()),
        "true_positive_rate": tuple(right[roc].tolist()),
        "recall": tuple(recall[pr].tolist()),
        "precision": tuple(precision[pr].tolist()),
    }
    return curve.model_copy(update=points)


def _thinned(along_m: Floats) -> npt.NDArray[np.int64]:
    """Return which points to keep, at even steps of what rises along the curve; ends always."""
    last = len(along_m) - 1
    if last < POINTS:
        return np.arange(last + 1)
    steps = np.linspace(along_m[0], along_m[-1], POINTS)
    inner = np.searchsorted(along_m, steps[1:-1])
    return np.unique(np.concatenate([[0], inner, [last]]))
