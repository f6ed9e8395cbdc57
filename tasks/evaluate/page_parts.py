"""What the page's sections show, sorted and cut to a length that a person reads."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.evaluate.charts import LINES
from tasks.evaluate.wording import counted
from tasks.measures import Corruption, Curve, Estimate, ExplainedImage, Slice
from tasks.values import ClassReport, EvaluationReport

MOST_IN_MATRIX = 50  # classes; beyond that a matrix is no longer read
MOST_ROWS = 30  # of a table before the rest is folded away
MOST_PAIRS = 20
AREAS = ("mean_roc_auc", "mean_average_precision")
FEW = 20  # images
OF_CLASS = ("recall", "precision", "f1", "roc_auc", "average_precision")
SIDE = 320  # px, of a picture on the page at most


@dataclass(frozen=True)
class ClassRow:
    """One class with all that the report knows of it."""

    report: ClassReport
    estimates: dict[str, Estimate]  # by the figures of ``OF_CLASS``, as far as there are any
    curve: Curve | None
    counts: tuple[int, int, int, int] | None  # TN, FP, FN, TP; multi-label only
    colour: int | None  # of its curves, from 1


@dataclass(frozen=True)
class Pair:
    """Images of one class that are taken for another."""

    truth: str
    prediction: str
    n: int
    share: float  # of the images of the true class


@dataclass(frozen=True)
class Picture:
    """An explained image and its data: addresses."""

    facts: ExplainedImage
    image: str
    overlay: str | None


def drawn_curves(report: EvaluationReport) -> tuple[list[Curve], list[Curve]]:
    """Return the curves that are drawn in colour, hardest class first, and the others."""
    known = [curve for curve in report.curves if curve.average_precision is not None]
    known.sort(key=lambda curve: curve.average_precision or 0.0)
    return known[: len(LINES)], known[len(LINES) :]


def class_rows(report: EvaluationReport) -> list[ClassRow]:
    """Return a row a class; with more than ``MOST_ROWS``, those of the lowest F1 first."""
    estimates = {estimate.name: estimate for estimate in report.estimates}
    curves = {curve.name: curve for curve in report.curves}
    coloured = {curve.name: k for k, curve in enumerate(drawn_curves(report)[0], start=1)}
    counts = report.class_confusion or itertools.repeat(None)
    rows = [
        ClassRow(
            report=one,
            estimates={
                figure: estimates[key]
                for figure in OF_CLASS
                if (key := f"{figure}[{one.name}]") in estimates
            },
            curve=curves.get(one.name),
            counts=four,
            colour=coloured.get(one.name),
        )
        for one, four in zip(report.classes, counts, strict=False)
    ]
    return rows if len(rows) <= MOST_ROWS else sorted(rows, key=lambda row: row.report.f1)


def resampling(report: EvaluationReport) -> str:
    """Return in words how many resamples intervals are of, and where fewer; "" without any."""
    drawn = [one.resamples for one in report.estimates if one.resamples is not None]
    if not drawn:
        return ""
    words = f"Intervals are of {max(drawn):,} bootstrap resamples of the test images"
    few = [one.resamples or 0 for one in report.estimates if one.name in AREAS]
    if not few or max(few) == max(drawn):
        return f"{words}."
    if max(few) == 0:
        return f"{words}; ROC AUC and average precision have none, which would take minutes."
    return f"{words}; of ROC AUC and average precision {max(few):,}, since more take minutes."


def weakest_class(report: EvaluationReport) -> ClassReport | None:
    """Return the class of which the smallest share is found; None with fewer than two.

    One of ``FEW`` images or more where there is one: of fewer, chance decides.
    """
    present = [one for one in report.classes if one.n > 0]
    if len(present) < 2:
        return None
    return min(present, key=lambda one: (one.n < FEW, one.recall))


def weakest_slice(report: EvaluationReport) -> Slice | None:
    """Return the slice of lowest accuracy, if there are any; chosen as ``weakest_class`` is."""
    return min(report.slices, key=lambda one: (one.n < FEW, one.accuracy), default=None)


def confused_pairs(report: EvaluationReport) -> list[Pair]:
    """Return what is most often taken for what, most images first."""
    wrong = [each for each in _confused(report) if each[0] != each[1]]
    wrong.sort(key=lambda each: -each[2])
    return [
        Pair(report.classes[row].name, report.classes[column].name, n, n / report.classes[row].n)
        for row, column, n in wrong[:MOST_PAIRS]
    ]


def _confused(report: EvaluationReport) -> list[tuple[int, int, int]]:
    """Return truth, prediction and images of each place of the confusion matrix besides 0."""
    if not report.confusion:
        return list(report.confused)
    counts_cc = np.array(report.confusion)
    rows, columns = np.nonzero(counts_cc)
    counts = counts_cc[rows, columns]
    return list(zip(rows.tolist(), columns.tolist(), counts.tolist(), strict=True))


def matrix_rows(report: EvaluationReport) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return each true class with its counts and their shares of the row, if it can be read."""
    if not report.confusion or len(report.classes) > MOST_IN_MATRIX:
        return []
    return [
        (one.name, [(n, n / max(sum(row), 1)) for n in row])
        for one, row in zip(report.classes, report.confusion, strict=True)
    ]


def slice_groups(slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    """Return the slices of each column, the lowest accuracy first."""
    groups: dict[str, list[Slice]] = {}
    for one in slices:
        groups.setdefault(one.column, []).append(one)
    return {column: sorted(group, key=lambda one: one.accuracy) for column, group in groups.items()}


def other_slices(report: EvaluationReport) -> dict[str, str]:
    """Say of each column with too many values for a row each how many have none."""
    return {
        one.column: f"and {counted(one.values, 'other value')}, {counted(one.n, 'image')}: only "
        "the commonest values have a row"
        for one in report.slices_left_out
    }


def corruption_rows(corruptions: Sequence[Corruption]) -> dict[str, dict[int, float]]:
    """Return the accuracy of each kind of corruption by severity, from 1 on."""
    rows: dict[str, dict[int, float]] = {}
    for one in corruptions:
        if one.severity > 0:
            rows.setdefault(one.name, {})[one.severity] = one.accuracy
    return rows


def mean_corrupted(corruptions: Sequence[Corruption]) -> float | None:
    """Return the mean accuracy over kinds and severities; None without any."""
    found = [one.accuracy for one in corruptions if one.severity > 0]
    return float(np.mean(found)) if found else None


def undamaged(corruptions: Sequence[Corruption]) -> float | None:
    """Return the accuracy on the same images as they are: severity 0."""
    return next((one.accuracy for one in corruptions if one.severity == 0), None)


def pictures(report: EvaluationReport) -> list[Picture]:
    """Return the explained images with their files as data: addresses; raises ``OSError``."""
    folder = report.folder / "explained"
    return [
        Picture(
            facts=one,
            image=data_address(folder / one.image),
            overlay=None if one.overlay is None else data_address(folder / one.overlay),
        )
        for one in report.explained
    ]


def data_address(path: Path) -> str:
    """Return an image file as a data: address, as PNG or JPEG, whichever is smaller."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    contents = {kind: _encoded(picture, kind) for kind in ("png", "jpeg")}
    kind, content = min(contents.items(), key=lambda item: len(item[1]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(picture: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    picture.save(content, format=kind, quality=85)
    return content.getvalue()
