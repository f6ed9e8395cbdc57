"""A straight line through a benchmark's points, and how sure its slope is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Line:
    """``intercept`` + ``slope`` x, by ordinary least squares; the margins are of 95% intervals.

    They take the points' distances from the line as independent and normal (Student's t with two
    degrees of freedom less than points); with two points there are none.
    """

    slope: float
    intercept: float
    slope_margin: float | None
    intercept_margin: float | None
    points: int


def fit(x: Sequence[float], y: Sequence[float]) -> Line:
    """Return the line through two points or more of different ``x``."""
    from scipy import stats

    found = stats.linregress(x, y)
    free = len(x) - 2
    if not free:
        return Line(float(found.slope), float(found.intercept), None, None, len(x))
    times = float(stats.t.ppf((1 + CONFIDENCE) / 2, free))
    return Line(
        slope=float(found.slope),
        intercept=float(found.intercept),
        slope_margin=times * float(found.stderr),
        intercept_margin=times * float(found.intercept_stderr),
        points=len(x),
    )
