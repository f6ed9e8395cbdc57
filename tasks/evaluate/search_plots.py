"""The plot of a search: its course, what mattered, and a slice along each key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.evaluate.plots import new_figure, plain, save_figure
from tasks.evaluate.search import Search
from tasks.searchconfig import Scalar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
DECADES = 10.0  # a range this wide (high over low) is drawn by its logarithm
WORDS = {"val_accuracy": "validation accuracy, %", "val_loss": "validation loss, nats"}


def plot_search(search: Search, stem: Path) -> None:
    """Write ``stem``.png and .svg; a search has at least one whole trial."""
    keys = list(search.searched)
    panels = 2 + len(keys)
    rows = -(-panels // COLUMNS)
    figure = new_figure(4.2 * COLUMNS, 3.0 * rows)
    _plot_course(figure.add_subplot(rows, COLUMNS, 1), search)
    _plot_importances(figure.add_subplot(rows, COLUMNS, 2), search)
    for position, key in enumerate(keys, start=3):
        _plot_slice(figure.add_subplot(rows, COLUMNS, position), search, key)
    save_figure(figure, stem)


def _plot_course(axes: Axes, search: Search) -> None:
    for state, marker, colour in (("complete", "o", "C0"), ("pruned", "x", "grey")):
        some = search.of_state(state)
        values = [_shown(search, trial.value) for trial in some]
        axes.plot([t.number for t in some], values, marker, color=colour, label=state, alpha=0.6)
    best = search.so_far()
    axes.step(
        [number for number, _ in best],
        [_shown(search, value) for _, value in best],
        where="post",
        color="C1",
        label="best so far",
    )
    axes.set_xlabel("trial")
    axes.set_ylabel(WORDS[search.metric])
    axes.legend(fontsize=7)


def _plot_importances(axes: Axes, search: Search) -> None:
    if not search.importances:
        axes.text(0.5, 0.5, "too few trials to tell\nwhat mattered", ha="center", va="center")
        axes.set_axis_off()
        return
    rows = search.importances[::-1]  # the most important on top
    places = range(len(rows))
    axes.barh([p + 0.2 for p in places], [r.fanova for r in rows], 0.4, label="fANOVA")
    axes.barh([p - 0.2 for p in places], [r.ped_anova for r in rows], 0.4, label="PED-ANOVA")
    axes.set_yticks(places, [plain(row.key, 32) for row in rows], fontsize=7)
    axes.set_xlabel("importance")
    axes.legend(fontsize=7)


def _plot_slice(axes: Axes, search: Search, key: str) -> None:
    whole = search.of_state("complete")
    values = [trial.point[key] for trial in whole]
    heights = [_shown(search, trial.value) for trial in whole]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    axes.set_xlabel(plain(key, 40))
    if len(numbers) < len(values):
        names = [_name(value) for value in values]
        known = list(dict.fromkeys(names))
        axes.plot([known.index(name) for name in names], heights, "o", alpha=0.6)
        axes.set_xticks(range(len(known)), known)
        return
    axes.plot(numbers, heights, "o", alpha=0.6)
    if min(numbers) > 0 and max(numbers) / min(numbers) >= DECADES:
        axes.set_xscale("log")


def _name(value: Scalar) -> str:
    return plain("null" if value is None else str(value))


def _shown(search: Search, value: float | None) -> float:
    assert value is not None
    return 100 * value if search.metric == "val_accuracy" else value
