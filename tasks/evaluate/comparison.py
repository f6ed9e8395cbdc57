"""Strategies side by side: mean and spread over seeds, paired differences, and who is ahead."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tasks.values import Value

DIGITS = 12  # of an accuracy; what is beyond comes of the order of summing

Panel = tuple[str, str]  # data set, backbone
Key = TypeVar("Key", bound=Hashable)


class Figures(Value):
    """What one cell reached."""

    val_accuracy: float
    test_accuracy: float
    seconds: float  # of training
    trainable_parameters: int


class Failure(Value):
    """Why a cell has no figures."""

    kind: str  # the error's class
    message: str
    exit_code: int


class Outcome(Value):
    """One cell of the grid: figures, or what went wrong."""

    dataset: str
    backbone: str
    strategy: str
    seed: int
    folder: Path | None  # of a cell without figures nothing is left
    figures: Figures | None
    failure: Failure | None


class Spread(Value):
    """Mean and sample standard deviation (``ddof=1``) of one figure over n seeds."""

    n: int
    mean: float
    std: float | None  # None of a single seed


class Difference(Value):
    """Mean of a strategy minus the reference over the n seeds that both have."""

    n: int
    mean: float
    t_p: float | None  # two-sided p of the paired t-test; None of a single pair
    wilcoxon_p: float | None  # two-sided p of the signed-rank test


class StrategyRow(Value):
    """One strategy on one data set and backbone."""

    dataset: str
    backbone: str
    strategy: str
    rank: int  # from 1, by mean validation accuracy
    val: Spread
    test: Spread
    seconds: float
    trainable_parameters: int
    val_difference: Difference | None  # to the reference; None for itself or without a pair
    test_difference: Difference | None


class OverallRow(Value):
    """One strategy over all data sets and backbones that it has figures on."""

    strategy: str
    panels: int
    complete: bool  # every cell of it has figures
    val_mean: float  # mean over the panels of their means over seeds
    rank_mean: float
    seconds: float  # the same mean
    val_difference: Difference | None = None  # to the reference, over all cells that both have
    p: float | None = None  # of its t-test, corrected for all strategies of the table (Holm 1979)


class Comparison(Value):
    """Every cell of a comparison, and the tables made of them."""

    name: str
    folder: Path
    run_id: str  # of the parent run in MLflow
    reference: str
    seeds: tuple[int, ...]
    outcomes: tuple[Outcome, ...]
    rows: tuple[StrategyRow, ...]
    overall: tuple[OverallRow, ...]  # best first
    cost_limit: float | None = None  # times the reference's seconds that the supported may take
    supported: str | None  # the reference, unless another is shown to be better


def spread(values: Sequence[float]) -> Spread:
    """Return n, mean and sample standard deviation of ``values``, at least one."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(n=len(values), mean=float(np.mean(values)), std=std)


def difference(ours: Mapping[Key, float], theirs: Mapping[Key, float]) -> Difference | None:
    """Compare two mappings of seed (or cell) to accuracy on the seeds that are in both.

    Student's paired t-test and Wilcoxon's signed-rank test (Wilcoxon 1945), as scipy has them,
    two-sided. Differences that are all 0 are no evidence: p is 1.
    """
    seeds = [key for key in ours if key in theirs]
    if not seeds:
        return None
    ours_n, theirs_n = (np.array([side[seed] for seed in seeds]) for side in (ours, theirs))
    mean = float(np.mean(ours_n - theirs_n))
    t_p, wilcoxon_p = _paired_p(ours_n, theirs_n)
    return Difference(n=len(seeds), mean=mean, t_p=t_p, wilcoxon_p=wilcoxon_p)


def _paired_p(
    ours_n: npt.NDArray[np.float64], theirs_n: npt.NDArray[np.float64]
) -> tuple[float | None, float | None]:
    from scipy import stats

    if len(ours_n) < 2:
        return None, None
    if np.array_equal(ours_n, theirs_n):
        return 1.0, 1.0
    with warnings.catch_warnings():  # equal differences leave t without a denominator: p is 0
        warnings.simplefilter("ignore")
        t_p = float(stats.ttest_rel(ours_n, theirs_n).pvalue)
        # rounded, or rounding errors of equal differences would be told apart as ranks
        wilcoxon_p = float(stats.wilcoxon(np.round(ours_n - theirs_n, DIGITS)).pvalue)
    return t_p, wilcoxon_p


def strategy_rows(outcomes: Sequence[Outcome], reference: str) -> tuple[StrategyRow, ...]:
    """Return a row for each strategy of each panel, the highest mean validation accuracy first.

    Failed cells are left out; a strategy without any figures has no row. Equal means share a rank.
    """
    panels = dict.fromkeys((outcome.dataset, outcome.backbone) for outcome in outcomes)
    return tuple(row for panel in panels for row in _panel_rows(panel, outcomes, reference))


def _panel_rows(panel: Panel, outcomes: Sequence[Outcome], reference: str) -> list[StrategyRow]:
    cells: dict[str, dict[int, Figures]] = {}
    for outcome in outcomes:
        if (outcome.dataset, outcome.backbone) == panel and outcome.figures is not None:
            cells.setdefault(outcome.strategy, {})[outcome.seed] = outcome.figures
    means = {
        name: round(float(np.mean([f.val_accuracy for f in by_seed.values()])), DIGITS)
        for name, by_seed in cells.items()
    }
    rows = [
        _row(panel, name, by_seed, {} if name == reference else cells.get(reference, {}))
        | {"rank": 1 + sum(mean > means[name] for mean in means.values())}
        for name, by_seed in cells.items()
    ]
    return sorted((StrategyRow.model_validate(row) for row in rows), key=lambda row: row.rank)


def _row(
    panel: Panel, strategy: str, figures: Mapping[int, Figures], others: Mapping[int, Figures]
) -> dict[str, object]:
    val, test = _accuracies(figures)
    reference_val, reference_test = _accuracies(others)
    return {
        "dataset": panel[0],
        "backbone": panel[1],
        "strategy": strategy,
        "val": spread(list(val.values())),
        "test": spread(list(test.values())),
        "seconds": float(np.mean([f.seconds for f in figures.values()])),
        "trainable_parameters": max(f.trainable_parameters for f in figures.values()),
        "val_difference": difference(val, reference_val),
        "test_difference": difference(test, reference_test),
    }


def _accuracies(figures: Mapping[int, Figures]) -> tuple[dict[int, float], dict[int, float]]:
    return (
        {seed: f.val_accuracy for seed, f in figures.items()},
        {seed: f.test_accuracy for seed, f in figures.items()},
    )
