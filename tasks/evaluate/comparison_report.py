"""A comparison as files: tables in Markdown, JSON, CSV and Parquet, and a plot."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.artifacts import write_atomic
from tasks.evaluate.comparison import Comparison, Difference, Outcome, Spread, StrategyRow
from tasks.evaluate.plots import new_figure, save_figure
from tasks.evaluate.supported import ALPHA
from tasks.evaluate.tables import csv_for_people, escape_markdown, markdown_table

_VAL_DIFFERENCE = "val, to reference (t p, Wilcoxon p)"
HEAD = (
    "rank",
    "strategy",
    "val accuracy",
    "test accuracy",
    _VAL_DIFFERENCE,
    "test, to reference (t p, Wilcoxon p)",
    "seconds",
    "trainable parameters",
)


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write comparison.json, comparison.md, cells.csv, cells.parquet and comparison.png and .svg.

    Raises ``ResourceError`` when the disk is full.
    """
    _write_cells(comparison, folder)
    if comparison.rows:
        plot_comparison(comparison, folder / "comparison")
    write_atomic(folder / "comparison.md", comparison_markdown(comparison).encode())
    content = json.dumps(comparison.model_dump(mode="json"), indent=2)
    write_atomic(folder / "comparison.json", content.encode())


def _write_cells(comparison: Comparison, folder: Path) -> None:
    import pandas as pd

    table = pd.DataFrame([_flat(outcome) for outcome in comparison.outcomes])
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    write_atomic(folder / "cells.parquet", parquet.getvalue())
    write_atomic(folder / "cells.csv", csv_for_people(table))


def _flat(outcome: Outcome) -> dict[str, Any]:
    figures, failure = outcome.figures, outcome.failure
    return {
        "dataset": outcome.dataset,
        "backbone": outcome.backbone,
        "strategy": outcome.strategy,
        "seed": outcome.seed,
        "val_accuracy": None if figures is None else figures.val_accuracy,
        "test_accuracy": None if figures is None else figures.test_accuracy,
        "seconds": None if figures is None else figures.seconds,
        "trainable_parameters": None if figures is None else figures.trainable_parameters,
        "error": None if failure is None else " ".join(failure.message.split()),
        "folder": None if outcome.folder is None else str(outcome.folder),
    }


def comparison_markdown(comparison: Comparison) -> str:
    """Return the report for people: who is ahead, a table a panel, and what failed."""
    seeds = ", ".join(str(seed) for seed in comparison.seeds)
    lines = [
        f"# {comparison.name}",
        "",
        _verdict(comparison),
        "",
        f"Mean ± sample standard deviation over the seeds {seeds}. A seed decides the validation "
        "split, the new head and the order of images; the test images are the same for all. Every "
        "model is scored once on the test images, and nothing is chosen by them: ranks and the "
        "verdict come from validation alone.",
        "",
        f"Differences are to `{comparison.reference}` on the same seeds, in percentage points, "
        "with the two-sided p of the paired t-test and of Wilcoxon's signed-rank test, not "
        "corrected for how many strategies are compared. Over n seeds Wilcoxon's p cannot be below "
        f"2/2ⁿ, {2 / 2 ** len(comparison.seeds):.3g} here.",
        "",
    ]
    for panel in dict.fromkeys((row.dataset, row.backbone) for row in comparison.rows):
        rows = [row for row in comparison.rows if (row.dataset, row.backbone) == panel]
        lines += [f"## {panel[0]} · {panel[1]}", "", *markdown_table(table(rows)), ""]
    return "\n".join([*lines, *_overall(comparison), *_failures(comparison)])


def table(rows: Sequence[StrategyRow]) -> list[tuple[str, ...]]:
    """Return the head and a line of words for each row."""
    return [HEAD, *(_words(row) for row in rows)]


def _words(row: StrategyRow) -> tuple[str, ...]:
    return (
        str(row.rank),
        row.strategy,
        spread_words(row.val),
        spread_words(row.test),
        difference_words(row.val_difference),
        difference_words(row.test_difference),
        f"{row.seconds:.1f}",
        f"{row.trainable_parameters:,}",
    )


def spread_words(spread: Spread) -> str:
    """Return ``93.10 ± 0.52%``."""
    std = "" if spread.std is None else f" ± {100 * spread.std:.2f}"
    return f"{100 * spread.mean:.2f}{std}%"


def difference_words(difference: Difference | None) -> str:
    """Return ``+0.52 (0.031, 0.063)``: points, and the p of both tests."""
    if difference is None:
        return ""
    pair = (difference.t_p, difference.wilcoxon_p)
    values = ", ".join(f"{p:.3f}" for p in pair if p is not None)
    return f"{100 * difference.mean:+.2f}" + (f" ({values})" if values else "")


def _verdict(comparison: Comparison) -> str:
    reference, limit = comparison.reference, comparison.cost_limit
    if comparison.supported is None:
        return f"**`{reference}`, the reference, lacks figures, so that none is supported yet.**"
    within = "" if limit is None else f" within {limit:g} times its seconds"
    test = f"(paired t-test over all cells, Holm's correction, p < {ALPHA:g})"
    if comparison.supported == reference:
        return (
            f"**The table supports `{reference}`**, the reference: no strategy{within} has a "
            f"higher validation accuracy by more than chance gives {test}."
        )
    return (
        f"**The table supports `{comparison.supported}`**: its validation accuracy is above that "
        f"of `{reference}` by more than chance gives {test}, and the highest of all such{within}."
    )


def _overall(comparison: Comparison) -> list[str]:
    rows = [
        (
            row.strategy,
            f"{100 * row.val_mean:.2f}%",
            f"{row.rank_mean:.1f}",
            difference_words(row.val_difference),
            "" if row.p is None else f"{row.p:.3f}",
            f"{row.seconds:.1f}",
            "yes" if row.complete else "no",
        )
        for row in comparison.overall
    ]
    head = (
        "strategy",
        "mean of val accuracies",
        "mean rank",
        _VAL_DIFFERENCE,
        "t p, corrected",
        "seconds",
        "complete",
    )
    return ["## Over all", "", *markdown_table([head, *rows]), ""] if rows else []


def _failures(comparison: Comparison) -> list[str]:
    failed = [
        f"- {escape_markdown(f'{o.dataset} · {o.backbone} · {o.strategy} · seed {o.seed}')}: "
        f"{escape_markdown(o.failure.message)}"
        for o in comparison.outcomes
        if o.failure is not None
    ]
    return ["## Failed", "", *failed, ""] if failed else []


def plot_comparison(comparison: Comparison, stem: Path) -> None:
    """Write ``stem``.png and .svg: validation accuracy by strategy, a panel each, a dot a seed."""
    panels = list(dict.fromkeys((row.dataset, row.backbone) for row in comparison.rows))
    longest = max(len(_rows_of(comparison, panel)) for panel in panels)
    figure = new_figure(5.5 * len(panels), 1.5 + 0.32 * longest)
    for position, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), position)
        rows = _rows_of(comparison, panel)[::-1]  # the best on top
        for height, row in enumerate(rows):
            axes.errorbar(
                100 * row.val.mean, height, xerr=100 * (row.val.std or 0), fmt="o", color="C0"
            )
            dots = [100 * accuracy for accuracy in _seeds_of(comparison, row)]
            axes.plot(dots, [height] * len(dots), ".", color="grey", alpha=0.6)
        axes.set_yticks(range(len(rows)), [row.strategy for row in rows])
        axes.set_xlabel("validation accuracy, % (mean ± std, a dot a seed)")
        axes.set_title(" · ".join(panel))
        axes.grid(axis="x", alpha=0.3)
    save_figure(figure, stem)


def _rows_of(comparison: Comparison, panel: tuple[str, str]) -> list[StrategyRow]:
    return [row for row in comparison.rows if (row.dataset, row.backbone) == panel]


def _seeds_of(comparison: Comparison, row: StrategyRow) -> list[float]:
    own = (row.dataset, row.backbone, row.strategy)
    return [
        o.figures.val_accuracy
        for o in comparison.outcomes
        if (o.dataset, o.backbone, o.strategy) == own and o.figures is not None
    ]
