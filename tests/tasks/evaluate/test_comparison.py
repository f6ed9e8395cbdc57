"""Means, spreads and p values, against numpy, scipy and every sign that differences could have."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from tasks.evaluate.comparison import (
    Comparison,
    Failure,
    Figures,
    Outcome,
    difference,
    spread,
    strategy_rows,
)
from tasks.evaluate.comparison_report import comparison_markdown, write_comparison
from tasks.evaluate.supported import overall_rows, supported

SEEDS = (0, 1, 2, 3, 4)
VAL = {
    "full": [0.91, 0.93, 0.90, 0.94, 0.92],
    "better": [0.94, 0.95, 0.955, 0.96, 0.93],
    "worse": [0.80, 0.95, 0.81, 0.70, 0.79],
}


def outcome(
    strategy: str, seed: int, val: float | None, dataset: str = "ants", seconds: float = 1.5
) -> Outcome:
    figures = failure = None
    if val is None:
        failure = Failure(kind="DataError", message="no <images>\nfind | some", exit_code=3)
    else:
        figures = Figures(
            val_accuracy=val, test_accuracy=val - 0.05, seconds=seconds, trainable_parameters=1234
        )
    return Outcome(
        dataset=dataset,
        backbone="tiny",
        strategy=strategy,
        seed=seed,
        folder=None,
        figures=figures,
        failure=failure,
    )


@pytest.fixture
def outcomes() -> list[Outcome]:
    return [
        outcome(name, seed, value, dataset)
        for dataset in ("ants", "bees")
        for name, values in VAL.items()
        for seed, value in zip(SEEDS, values, strict=True)
    ]


def compared(outcomes: list[Outcome], folder: Path, limit: float | None = None) -> Comparison:
    rows = strategy_rows(outcomes, "full")
    overall = overall_rows(rows, outcomes, "full")
    return Comparison(
        name="$both",
        folder=folder,
        run_id="1",
        reference="full",
        seeds=SEEDS,
        outcomes=tuple(outcomes),
        rows=rows,
        overall=overall,
        cost_limit=limit,
        supported=supported(overall, "full", limit),
    )


def test_the_spread_is_that_of_a_sample():
    values = VAL["worse"]
    mean = sum(values) / 5
    std = (sum((value - mean) ** 2 for value in values) / 4) ** 0.5
    found = spread(values)
    assert (found.n, found.mean, found.std) == (5, pytest.approx(mean), pytest.approx(std))
    assert spread([0.5]).std is None


@pytest.mark.parametrize("name", ["better", "worse"])
def test_the_p_values_are_those_of_scipy(name: str):
    ours, theirs = (dict(zip(SEEDS, VAL[key], strict=True)) for key in (name, "full"))
    found = difference(ours, theirs)
    assert found.mean == pytest.approx(np.mean(VAL[name]) - np.mean(VAL["full"]))
    assert found.t_p == pytest.approx(stats.ttest_rel(VAL[name], VAL["full"]).pvalue)
    assert found.wilcoxon_p == pytest.approx(every_sign(np.subtract(VAL[name], VAL["full"])))


def every_sign(differences: np.ndarray) -> float:
    """Return Wilcoxon's exact two-sided p by going through all 2^n signs."""
    ranks = stats.rankdata(np.abs(differences))
    centre = ranks.sum() / 2
    observed = abs(ranks[differences > 0].sum() - centre)
    signs = itertools.product((0, 1), repeat=len(ranks))
    return float(np.mean([abs(ranks @ np.array(s) - centre) >= observed - 1e-9 for s in signs]))


def test_only_seeds_that_both_have_are_paired():
    found = difference({0: 0.9, 1: 0.8, 7: 0.1}, {1: 0.7, 0: 0.7, 9: 0.0})
    assert (found.n, found.mean) == (2, pytest.approx(0.15))
    assert difference({0: 0.9}, {1: 0.9}) is None
    single = difference({0: 0.9}, {0: 0.8})
    assert (single.t_p, single.wilcoxon_p) == (None, None)


def test_equal_figures_are_no_evidence_and_equal_differences_are_the_most_there_is():
    equal = dict(zip(SEEDS, VAL["full"], strict=True))
    same = difference(equal, dict(equal))
    assert (same.mean, same.t_p, same.wilcoxon_p) == (0, 1, 1)
    shifted = difference({seed: value + 0.01 for seed, value in equal.items()}, equal)
    assert shifted.t_p < 1e-9
    assert shifted.wilcoxon_p == pytest.approx(2 / 2**5)


def test_ranks_are_by_validation_alone(outcomes: list[Outcome]):
    rows = strategy_rows(outcomes, "full")
    assert [(row.dataset, row.rank, row.strategy) for row in rows] == [
        (dataset, rank, name)
        for dataset in ("ants", "bees")
        for rank, name in enumerate(("better", "full", "worse"), start=1)
    ]
    by_test = [
        o.model_copy(update={"figures": o.figures.model_copy(update={"test_accuracy": 0.0})})
        if o.strategy == "better"
        else o
        for o in outcomes
    ]
    assert [row.strategy for row in strategy_rows(by_test, "full")] == [r.strategy for r in rows]
    assert rows[1].val_difference is None
    assert rows[0].test_difference.mean == pytest.approx(rows[0].val_difference.mean)


def test_equal_means_share_a_rank_and_the_quicker_is_first():
    values = [0.1, 0.2, 0.3, 0.7, 0.6]
    equal = [outcome("a", s, v) for s, v in zip(SEEDS, values, strict=True)]
    equal += [outcome("b", s, v, seconds=1) for s, v in zip(SEEDS, values[::-1], strict=True)]
    rows = strategy_rows(equal, "a")
    assert [row.rank for row in rows] == [1, 1]
    overall = overall_rows(rows, equal, "a")
    assert [row.strategy for row in overall] == ["b", "a"]
    assert supported(overall, "a") == "a"  # a higher place is no evidence


def test_the_difference_over_all_is_of_every_cell_and_corrected(outcomes: list[Outcome]):
    overall = {row.strategy: row for row in compared(outcomes, Path()).overall}
    found = {}
    for name in ("better", "worse"):
        pairs = [VAL[key] * 2 for key in (name, "full")]  # the same on both data sets
        assert overall[name].val_difference.n == 10
        assert overall[name].val_difference.mean == pytest.approx(np.subtract(*pairs).mean())
        found[name] = stats.ttest_rel(*pairs).pvalue
        assert overall[name].val_difference.t_p == pytest.approx(found[name])
    assert found["better"] < found["worse"]  # Holm: the smaller counts for two tests
    assert overall["better"].p == pytest.approx(2 * found["better"])
    assert overall["worse"].p == pytest.approx(max(2 * found["better"], found["worse"]))
    assert (overall["full"].val_difference, overall["full"].p) == (None, None)


def test_the_reference_gives_way_only_to_what_is_shown_to_be_better(outcomes: list[Outcome]):
    assert compared(outcomes, Path()).supported == "better"
    few = [o for o in outcomes if o.dataset == "ants" and o.seed < 2]
    highest = compared(few, Path())
    assert highest.overall[0].strategy == "better"
    assert highest.supported == "full"
    assert "**The table supports `full`**, the reference" in comparison_markdown(highest)


@pytest.mark.parametrize(("limit", "supports"), [(None, "better"), (3.0, "better"), (2.9, "full")])
def test_what_costs_too_much_is_not_supported(
    outcomes: list[Outcome], limit: float | None, supports: str
):
    dear = [
        o.model_copy(update={"figures": o.figures.model_copy(update={"seconds": 4.5})})
        if o.strategy == "better"
        else o
        for o in outcomes
    ]
    found = compared(dear, Path(), limit)
    assert found.supported == supports
    told = "" if limit is None else f" within {limit:g} times its seconds"
    assert told in comparison_markdown(found)


def test_of_several_that_are_better_the_highest_is_supported(outcomes: list[Outcome]):
    best = [
        outcome("best", o.seed, o.figures.val_accuracy + 0.02, o.dataset)
        for o in outcomes
        if o.strategy == "better"
    ]
    assert compared([*outcomes, *best], Path()).supported == "best"


def test_a_strategy_that_lacks_a_figure_is_not_supported(outcomes: list[Outcome]):
    lacking = [
        outcome("better", 4, None)
        if (o.dataset, o.strategy, o.seed) == ("ants", "better", 4)
        else o
        for o in outcomes
    ]
    found = compared(lacking, Path())
    assert found.supported == "full"
    best = next(row for row in found.rows if row.strategy == "better")
    assert (best.val.n, best.val_difference.n) == (4, 4)
    assert compared([outcome("full", 0, None)], Path()).supported is None


def test_the_report_says_all(outcomes: list[Outcome], tmp_path: Path):
    comparison = compared([*outcomes, outcome("odd", 0, None)], tmp_path)
    text = comparison_markdown(comparison)
    assert "**The table supports `better`**: its validation accuracy is above" in text
    assert "| 1 | better | 94.70 ± 1.20% | 89.70 ± 1.20% | +2.70 (" in text
    assert "0.0625 here" in text
    assert "- ants · tiny · odd · seed 0: no &lt;images&gt; find &#124; some" in text
    write_comparison(comparison, tmp_path)
    again = json.loads((tmp_path / "comparison.json").read_text())
    assert Comparison.model_validate(again | {"seeds": SEEDS}) == comparison
    table = pd.read_csv(tmp_path / "cells.csv")
    assert table.groupby(["dataset", "strategy"]).val_accuracy.mean()["bees", "worse"] == (
        pytest.approx(np.mean(VAL["worse"]))
    )
    assert len(pd.read_parquet(tmp_path / "cells.parquet")) == len(table) == 31
    with Image.open(tmp_path / "comparison.png") as image:
        assert image.width > image.height > 100
    assert "worse" in (tmp_path / "comparison.svg").read_text()


def test_no_cell_of_the_table_for_people_is_a_formula(tmp_path: Path):
    formula = "=HYPERLINK(A1)"
    write_comparison(compared([outcome("full", 0, 0.9, dataset=formula)], tmp_path), tmp_path)
    with (tmp_path / "cells.csv").open(newline="") as file:
        head, row = csv.reader(file)
    assert row[head.index("dataset")] == f"'{formula}"
    assert row[head.index("val_accuracy")] == "0.9"
    # and the one for programs says what is
    assert pd.read_parquet(tmp_path / "cells.parquet").dataset[0] == formula


def test_without_a_figure_there_is_a_report_and_no_plot(tmp_path: Path):
    write_comparison(compared([outcome("full", 0, None)], tmp_path), tmp_path)
    assert "none is supported yet" in (tmp_path / "comparison.md").read_text()
    assert not (tmp_path / "comparison.png").exists()
