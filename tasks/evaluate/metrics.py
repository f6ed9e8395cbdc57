"""The figures of the report; scikit-learn and scipy do the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.evaluate.score import Scores
from tasks.values import ClassReport

_CONFIDENCE = 0.95
_TOP = 5


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
    confusion: tuple[tuple[int, ...], ...]


def measure(scores: Scores, classes: tuple[str, ...]) -> Metrics:
    """Compute the report's figures.

    The interval on the accuracy is Wilson's score interval at 95% (Wilson 1927). Balanced accuracy
    is the mean recall of the classes that are in the split; a class with no prediction has
    precision 0. Top-5 is left out (``None``) with five classes or fewer, where it says nothing.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix

    labels, predictions = scores.labels_n, scores.predictions_n
    right = int((labels == predictions).sum())
    interval = binomtest(right, len(labels)).proportion_ci(_CONFIDENCE, method="wilson")
    matrix = confusion_matrix(labels, predictions, labels=np.arange(len(classes)))
    reports = _class_reports(scores, classes)
    present = [r for r in reports if r.n > 0]
    return Metrics(
        accuracy=scores.accuracy,
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        balanced_accuracy=float(np.mean([r.recall for r in present])),
        macro_f1=float(np.mean([r.f1 for r in present])),
        log_loss=scores.log_loss,
        top5_accuracy=_top5(scores) if len(classes) > _TOP else None,
        classes=reports,
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
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
