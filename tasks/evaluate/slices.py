"""How the model does on parts of the test set: the images that share a value of a column."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tasks.errors import EvaluationError
from tasks.evaluate.estimates import estimate_some
from tasks.evaluate.score import Scores
from tasks.index import ImageRecord
from tasks.measures import Estimate, Slice, SlicesLeftOut

log = logging.getLogger(__name__)

VALUES = 50  # of a column, at most
FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


def slice_table(
    scores: Scores,
    records: Sequence[ImageRecord],
    columns: Sequence[str],
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[Slice, ...]:
    """Return a row for each value of each column of ``data.slice_columns``, most images first.

    ``records`` are those of the images scored, in order; an empty cell is the value "". Intervals
    are percentile bootstraps within the slice: of a few images, all right, the accuracy's is 1
    to 1. A mean over classes is over those in the slice or its resample. Of a column with more than
    50 values ``left_out`` tells the rest. Raises ``EvaluationError`` for records of other
    columns.
    """
    if any(len(record.slices) != len(columns) for record in records):
        raise EvaluationError(
            f"The test images' index does not hold data.slice_columns ({', '.join(columns)}).\n"
            "It was made with other columns: prepare the data again."
        )
    rows: list[Slice] = []
    for position, column in enumerate(columns):
        values = np.array([record.slices[position] for record in records], dtype=object)
        for value, _ in _by_number(values)[:VALUES]:
            part = subset(scores, values == value)
            rows.append(_slice(column, value, part, (resamples, confidence, seed)))
    return tuple(rows)


def subset(scores: Scores, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Scores:
    """Return the scores of some of the images: where ``rows`` (n,) is true, or at these numbers."""
    return replace(
        scores,
        probabilities_nc=scores.probabilities_nc[rows],
        labels_n=scores.labels_n[rows],
        predictions_n=scores.predictions_n[rows],
        energy_n=scores.energy_n[rows],
    )


def left_out(records: Sequence[ImageRecord], columns: Sequence[str]) -> tuple[SlicesLeftOut, ...]:
    """Return how many values of each column have no row, and how many images have them."""
    found = []
    for position, column in enumerate(columns):
        rest = _by_number([record.slices[position] for record in records])[VALUES:]
        if rest:
            n = sum(n for _, n in rest)
            log.warning(
                "slices of %s: its %d most frequent values are reported, %d with %d images are not",
                column,
                VALUES,
                len(rest),
                n,
            )
            found.append(SlicesLeftOut(column=column, values=len(rest), n=n))
    return tuple(found)


def _by_number(values: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))


def _slice(column: str, value: str, part: Scores, repeat: tuple[int, float, int]) -> Slice:
    found = estimate_some(part, FIGURES, *repeat)
    known = {one.name: one for one in found}
    return Slice(
        column=column,
        value=value,
        n=len(part.labels_n),
        accuracy=known["accuracy"].value,
        low=known["accuracy"].low,
        high=known["accuracy"].high,
        balanced_accuracy=_value(known.get("balanced_accuracy")),
        macro_f1=_value(known.get("macro_f1")),
        log_loss=known["log_loss"].value,
        estimates=found,
    )


def _value(one: Estimate | None) -> float | None:
    return None if one is None else one.value
