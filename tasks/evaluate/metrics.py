"""The figures of the report; scikit-learn and scipy do the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from tasks.evaluate.score import Scores
from tasks.values import ClassReport

_CONFIDENCE = 0.95
_TOP = 5
MOST_IN_MATRIX = 1_000  # classes; a million counts are 10 MB of report.json, a hundred million 1 GB


class _Confusion(TypedDict, total=False):
    confusion: tuple[tuple[int, ...], ...]
    confused: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Metrics:
    """Everything computed from one split's scores."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    top5_accuracy: float | None
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...] = ()
    confused: tuple[tuple[int, int, int], ...] = ()
    multi_label: bool = False
    mean_average_precision: float | None = None
    micro_f1: float | None = None
    hamming_loss: float | None = None
    class_confusion: tuple[tuple[int, int, int, int], ...] | None = None


def measure(scores: Scores, classes: tuple[str, ...]) -> Metrics:
    """Compute the report's figures.

    The interval on the accuracy is Wilson's score interval at 95% (Wilson 1927). Balanced accuracy
    is the mean recall of the classes that are in the split; a class with no prediction has
    precision 0. Top-5 is left out (``None``) with five classes or fewer, where it says nothing.

    With several labels an image, the fields are as ``EvaluationReport`` says; means are over the
    classes that are in the split, and average precision is scikit-learn's, without interpolation.
    """
    if scores.multi_label:
        return _measure_labels(scores, classes)
    low, high = _interval(scores)
    reports = _class_reports(scores, classes)
    present = [r for r in reports if r.n > 0]
    return Metrics(
        accuracy=scores.accuracy,
        accuracy_low=low,
        accuracy_high=high,
        balanced_accuracy=float(np.mean([r.recall for r in present])),
        macro_f1=float(np.mean([r.f1 for r in present])),
        log_loss=scores.log_loss,
        top5_accuracy=_top5(scores) if len(classes) > _TOP else None,
        classes=reports,
        **_confusion(scores, len(classes)),
    )


def _confusion(scores: Scores, classes: int) -> _Confusion:
    """Return the confusion matrix, or, where it is too large to be kept, its places besides 0."""
    from sklearn.metrics import confusion_matrix

    truth_n, prediction_n = scores.labels_n, scores.predictions_n
    if classes <= MOST_IN_MATRIX:
        matrix = confusion_matrix(truth_n, prediction_n, labels=np.arange(classes))
        return {"confusion": tuple(tuple(int(v) for v in row) for row in matrix)}
    pairs_p2, images_p = np.unique(
        np.column_stack((truth_n, prediction_n)), axis=0, return_counts=True
    )
    found = np.column_stack((pairs_p2, images_p)).tolist()
    return {"confused": tuple((truth, prediction, n) for truth, prediction, n in found)}


def _interval(scores: Scores) -> tuple[float, float]:
    from scipy.stats import binomtest

    correct_n = scores.correct_n
    found = binomtest(int(correct_n.sum()), len(correct_n))
    interval = found.proportion_ci(_CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def _measure_labels(scores: Scores, classes: tuple[str, ...]) -> Metrics:
    from sklearn.metrics import f1_score, hamming_loss, multilabel_confusion_matrix

    labels_nc, predictions_nc = scores.labels_n, scores.predictions_n
    low, high = _interval(scores)
    reports = _label_reports(scores, classes)
    present = [r for r in reports if r.n > 0]
    matrices_c22 = multilabel_confusion_matrix(labels_nc, predictions_nc)
    in_split = matrices_c22[[r.n > 0 for r in reports]]
    return Metrics(
        accuracy=scores.accuracy,
        accuracy_low=low,
        accuracy_high=high,
        balanced_accuracy=float(np.mean([_balanced(matrix_22) for matrix_22 in in_split])),
        macro_f1=float(np.mean([r.f1 for r in present])),
        log_loss=scores.log_loss,
        top5_accuracy=None,
        classes=reports,
        confusion=(),
        multi_label=True,
        mean_average_precision=float(np.mean([r.average_precision for r in present])),
        micro_f1=float(f1_score(labels_nc, predictions_nc, average="micro", zero_division=0.0)),
        hamming_loss=float(hamming_loss(labels_nc, predictions_nc)),
        class_confusion=tuple(
            (int(tn), int(fp), int(fn), int(tp)) for (tn, fp), (fn, tp) in matrices_c22
        ),
    )


def _balanced(matrix_22: npt.NDArray[np.int64]) -> float:
    """Return the mean recall of absent and present, of those that there are."""
    images_2 = matrix_22.sum(axis=1)
    return float(np.mean(matrix_22.diagonal()[images_2 > 0] / images_2[images_2 > 0]))


def _label_reports(scores: Scores, classes: tuple[str, ...]) -> tuple[ClassReport, ...]:
    from sklearn.metrics import average_precision_score

    columns = zip(
        _class_reports(scores, classes), scores.labels_n.T, scores.probabilities_nc.T, strict=True
    )
    return tuple(
        report.model_copy(
            update={"average_precision": float(average_precision_score(labels_n, probability_n))}
        )
        if report.n > 0
        else report
        for report, labels_n, probability_n in columns
    )


def _class_reports(scores: Scores, classes: tuple[str, ...]) -> tuple[ClassReport, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        scores.labels_n, scores.predictions_n, labels=np.arange(len(classes)), zero_division=0.0
    )
    return tuple(
        ClassReport(name=name, n=int(n), precision=float(p), recall=float(r), f1=float(f))
        for name, n, p, r, f in zip(classes, support, precision, recall, f1, strict=True)
    )


def _top5(scores: Scores) -> float:
    from sklearn.metrics import top_k_accuracy_score

    labels = np.arange(scores.probabilities_nc.shape[1])
    return float(
        top_k_accuracy_score(scores.labels_n, scores.probabilities_nc, k=_TOP, labels=labels)
    )
