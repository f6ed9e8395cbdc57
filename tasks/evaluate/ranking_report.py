"""A ranking as files: a table in Markdown, JSON, and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts import write_atomic
from tasks.evaluate.plots import new_figure, save_figure
from tasks.evaluate.ranking import SCORES, Ranking
from tasks.evaluate.tables import escape_markdown, markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"logme": "LogME (nats)", "h_score": "H-score", "knn": "kNN accuracy"}

EXPLAINED = """All scores are of the features before the head, on training images alone; higher is \
better. LogME (You et al. 2021): log evidence of linear regressions on them. H-score (Bao et al. \
2019, shrunk as in Ibrahim et al. 2022): how much of their spread lies between classes. kNN: \
leave-one-out accuracy of the nearest images by cosine. In brackets: the place by that score."""


def write_ranking(ranking: Ranking) -> None:
    """Write rank.json, rank.md, rank.png and rank.svg; raises ``ResourceError`` for a full disk."""
    folder = ranking.folder
    plot_ranking(ranking, folder / "rank")
    write_atomic(folder / "rank.md", ranking_markdown(ranking).encode())
    content = json.dumps(ranking.model_dump(mode="json"), indent=2)
    write_atomic(folder / "rank.json", content.encode())


def ranking_table(ranking: Ranking) -> list[tuple[str, ...]]:
    """Return the table as text, its head first."""
    places = {name: ranking.ranks(name) for name in SCORES}
    verified = bool(ranking.agreements)
    head = ("backbone", *TITLES.values(), "features", "images", "seconds")
    table: list[tuple[str, ...]] = [(*head, "val accuracy") if verified else head]
    for number, row in enumerate(ranking.backbones):
        scores = (f"{row.logme:.4f}", f"{row.h_score:.4f}", f"{row.knn:.2%}")
        cells = (
            row.label,
            *(f"{text} ({places[s][number]})" for text, s in zip(scores, SCORES, strict=True)),
            f"{row.dimension:,} at {row.crop} px",
            f"{row.images:,}",
            f"{row.seconds:.1f}",
        )
        table.append((*cells, f"{row.val_accuracy:.2%}") if verified else cells)
    return table


def agreement_table(ranking: Ranking) -> list[tuple[str, ...]]:
    """Return the rank correlations as text, their head first."""
    rows: list[tuple[str, ...]] = [("score", "Kendall's tau", "Spearman's rho")]
    rows += [(TITLES[a.score], _signed(a.kendall), _signed(a.spearman)) for a in ranking.agreements]
    return rows


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+.2f}"


def ranking_markdown(ranking: Ranking) -> str:
    """Return the ranking as Markdown."""
    lines = [
        f"# Backbones for {escape_markdown(ranking.name)}",
        "",
        f"{ranking.classes} classes, {ranking.neighbours} neighbours vote. {EXPLAINED}",
        "",
        *markdown_table(ranking_table(ranking)),
        "",
    ]
    if ranking.agreements:
        lines += [
            "## After fine-tuning",
            "",
            f"Rank correlation with the validation accuracy of {len(ranking.backbones)} runs.",
            "",
            *markdown_table(agreement_table(ranking)),
            "",
        ]
    return "\n".join(lines)


def plot_ranking(ranking: Ranking, stem: Path) -> None:
    """Write ``stem``.png and .svg: every score and, where known, scores over accuracy."""
    verified, n = bool(ranking.agreements), len(ranking.backbones)
    figure = new_figure(11.0, min(1.6 + 0.35 * n, 24.0) + 3.2 * verified)
    grid = figure.add_gridspec(1 + verified, len(SCORES))
    first: Axes | None = None
    for column, name in enumerate(SCORES):
        axes = figure.add_subplot(grid[0, column], sharey=first)
        _dots(axes, ranking, name, named=first is None)
        first = first or axes
        if verified:
            _against_accuracy(figure.add_subplot(grid[1, column]), ranking, name)
    save_figure(figure, stem)


def _dots(axes: Axes, ranking: Ranking, name: str, named: bool) -> None:
    rows = ranking.backbones
    values = [getattr(row, name) for row in rows]
    axes.plot(values, range(len(rows)), "o", color="tab:blue")
    axes.grid(axis="y", linestyle=":")
    axes.set_title(TITLES[name])
    if named:
        names = [f"{number}. {row.label}" for number, row in enumerate(rows, start=1)]
        # matplotlib reads $…$ as mathematics
        axes.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in names])
        axes.invert_yaxis()  # the best on top
    else:
        axes.tick_params(labelleft=False)


def _against_accuracy(axes: Axes, ranking: Ranking, name: str) -> None:
    for number, row in enumerate(ranking.backbones, start=1):
        point = (getattr(row, name), row.val_accuracy or 0.0)
        axes.plot(*point, "o", color="tab:blue")
        axes.annotate(str(number), point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.margins(0.15)  # room for the numbers
    tau = next(a.kendall for a in ranking.agreements if a.score == name)
    axes.set_title("Kendall's tau " + _signed(tau), fontsize=10)
    axes.set_xlabel(TITLES[name])
    axes.set_ylabel("validation accuracy")
