"""Which strategy a comparison supports: its reference, unless another is shown to be better."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.evaluate.comparison import (
    DIGITS,
    Difference,
    Outcome,
    OverallRow,
    Panel,
    StrategyRow,
    difference,
)
from tasks.preprocess.drift import holm

ALPHA = 0.05  # level of all differences together

Cell = tuple[Panel, int]  # and the seed


def overall_rows(
    rows: Sequence[StrategyRow], outcomes: Sequence[Outcome], reference: str
) -> tuple[OverallRow, ...]:
    """Sum the panels up, the highest mean validation accuracy first, every panel counting the same.

    The difference to ``reference`` is of all cells that both have, paired by panel and seed; its
    ``p`` is that of the paired t-test, corrected for all strategies of the table (Holm 1979). Of
    strategies with equal means the one that trains quicker comes first.
    """
    incomplete = {outcome.strategy for outcome in outcomes if outcome.figures is None}
    names = list(dict.fromkeys(row.strategy for row in rows))
    values = {name: _accuracies(name, outcomes) for name in names}
    found = {
        name: difference(values[name], values[reference])
        for name in names
        if name != reference and reference in values
    }
    p_values = _adjusted(found)
    sums = [
        _sum(name, rows, name not in incomplete, found.get(name), p_values.get(name))
        for name in names
    ]
    return tuple(sorted(sums, key=_standing))


def _accuracies(strategy: str, outcomes: Sequence[Outcome]) -> dict[Cell, float]:
    return {
        ((outcome.dataset, outcome.backbone), outcome.seed): outcome.figures.val_accuracy
        for outcome in outcomes
        if outcome.strategy == strategy and outcome.figures is not None
    }


def _adjusted(found: dict[str, Difference | None]) -> dict[str, float]:
    told = {name: one.t_p for name, one in found.items() if one is not None and one.t_p is not None}
    return dict(zip(told, holm(list(told.values())), strict=True))


def _sum(
    strategy: str,
    rows: Sequence[StrategyRow],
    complete: bool,
    to_reference: Difference | None,
    p: float | None,
) -> OverallRow:
    own = [row for row in rows if row.strategy == strategy]
    val, rank, seconds = (
        sum(values) / len(own)
        for values in (
            [row.val.mean for row in own],
            [row.rank for row in own],
            [row.seconds for row in own],
        )
    )
    return OverallRow(
        strategy=strategy,
        panels=len(own),
        complete=complete,
        val_mean=val,
        rank_mean=rank,
        seconds=seconds,
        val_difference=to_reference,
        p=p,
    )


def _standing(row: OverallRow) -> tuple[bool, float, float]:
    return not row.complete, -round(row.val_mean, DIGITS), row.seconds


def supported(
    overall: Sequence[OverallRow], reference: str, cost_limit: float | None = None
) -> str | None:
    """Return the strategy that the table supports; None where the reference lacks a figure.

    As a champion is replaced only by a model that is shown to be better, the reference gives way
    only to a strategy whose figures are complete, which takes at most ``cost_limit`` times its
    seconds, and whose validation accuracy is higher by more than chance gives (p below ``ALPHA``
    after Holm's correction); of several such to the one with the highest mean.
    """
    own = next((row for row in overall if row.strategy == reference and row.complete), None)
    if own is None:
        return None
    most = float("inf") if cost_limit is None else cost_limit * own.seconds
    better = (row.strategy for row in overall if row.seconds <= most and _is_better(row))
    return next(better, reference)


def _is_better(row: OverallRow) -> bool:
    """Tell whether a complete strategy is above the reference by more than chance."""
    if not row.complete or row.val_difference is None or row.p is None:
        return False
    return row.val_difference.mean > 0 and row.p < ALPHA
