"""The figures of a report by name, and the floors and limits that are set on them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tasks.values import EvaluationReport

OWN = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "log_loss",
    "top5_accuracy",
    "mean_average_precision",
    "micro_f1",
    "hamming_loss",
)
OF_CLASS = ("precision", "recall", "f1", "average_precision")
OF_CURVE = ("roc_auc", "average_precision")
OF_SLICE = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
OF_SPEED = (
    "latency_p50_ms",
    "latency_p95_ms",
    "images_per_second",
    "size_mib",
    "parameters",
    "gflops",
)
NAMED = 3  # nearest names that are suggested


@dataclass(frozen=True)
class Check:
    """One floor or limit, and whether it is held."""

    held: bool
    words: str


def figures(report: EvaluationReport) -> dict[str, float]:
    """Return every figure of ``report`` that a floor or a limit may name.

    ``recall[cat]`` is of a class, ``accuracy[site=A]`` of a slice, ``accuracy[jpeg:3]`` of images
    under a corruption of ``corruption_kinds`` at severity 3; the others stand alone, such as
    ``ece`` or ``latency_p95_ms``. What was not measured, and a class without a test image, is left
    out.
    """
    return {
        name: float(value)
        for name, value in (*_alone(report), *_of_parts(report))
        if value is not None
    }


def _alone(report: EvaluationReport) -> Iterator[tuple[str, float | None]]:
    for name in OWN:
        yield name, getattr(report, name)
    for estimate in report.estimates:
        yield estimate.name, estimate.value
    if report.speed is not None:
        for name in OF_SPEED:
            yield name, getattr(report.speed, name)
    if report.rejection is not None:
        yield "test_coverage", report.rejection.test_coverage
        yield "test_error", report.rejection.test_error
    if report.novelty is not None:
        yield "test_flagged", report.novelty.test_flagged
        yield "noise_auroc", report.novelty.noise_auroc


def _of_parts(report: EvaluationReport) -> Iterator[tuple[str, float | None]]:
    """Yield what is of a class, a slice or a corruption; of a class each name comes once."""
    of_class = [(row.name, row, OF_CLASS) for row in report.classes if row.n]
    of_curve = [(curve.name, curve, OF_CURVE) for curve in report.curves]
    of_slice = [(f"{part.column}={part.value}", part, OF_SLICE) for part in report.slices]
    for what, part, names in (*of_curve, *of_class, *of_slice):
        for name in names:
            value = getattr(part, name)
            if value is not None:
                yield f"{name}[{what}]", value
    for corruption in report.corruptions:
        yield f"accuracy[{corruption.name}:{corruption.severity}]", corruption.accuracy


def check_bounds(
    found: Mapping[str, float], floors: Mapping[str, float], limits: Mapping[str, float]
) -> tuple[Check, ...]:
    """Hold every floor and limit against the figures; one that is missing or NaN is not held."""
    return (
        *(_check(found, name, "floor", bound) for name, bound in floors.items()),
        *(_check(found, name, "limit", bound) for name, bound in limits.items()),
    )


def _check(found: Mapping[str, float], name: str, kind: str, bound: float) -> Check:
    if name not in found:
        near = difflib.get_close_matches(name, found, NAMED)
        there = f"the nearest are {', '.join(near)}" if near else "none has a name like that"
        return Check(False, f"{name}, which has a {kind}, is no figure of the report: {there}.")
    value = found[name]
    if math.isnan(value):
        return Check(False, f"{name} is not a number, and has a {kind} of {bound:g}.")
    held = value >= bound if kind == "floor" else value <= bound
    relation = ("above" if kind == "limit" else "below") if not held else "within"
    return Check(held, f"{name} is {value:.6g}, {relation} its {kind} of {bound:g}.")
