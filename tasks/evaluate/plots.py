"""The confusion matrix and the learning curve, each as PNG and SVG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.artifacts import write_atomic
from tasks.finetune.progress import read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_MOST_CELLS_WITH_NUMBERS = 20  # classes; beyond that the numbers run into each other
_MOST_ROWS_WITH_NUMBERS = 50
_MOST_NAMES = 50  # classes; beyond that their names run into each other, and take half a minute
_DPI = 120


def save_figure(figure: Figure, stem: Path) -> None:
    """Write ``stem``.png and .svg; the same figures give the same bytes."""
    from matplotlib import rc_context

    for kind in ("png", "svg"):
        content = io.BytesIO()
        # no date and no random ids in the file
        metadata = {"Date": None} if kind == "svg" else {}
        with rc_context({"svg.hashsalt": "graft"}):
            figure.savefig(content, format=kind, dpi=_DPI, metadata=metadata)
        write_atomic(stem.with_suffix(f".{kind}"), content.getvalue())


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, its sides in inches."""
    # a Figure of its own, not pyplot: nothing global, so it works in a worker's thread
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_confusion(
    confusion: tuple[tuple[int, ...], ...], classes: tuple[str, ...], stem: Path
) -> None:
    """Write ``stem``.png and .svg; rows are the truth, shaded by share of the row."""
    counts_cc = np.array(confusion)
    shares_cc = counts_cc / np.maximum(counts_cc.sum(axis=1, keepdims=True), 1)
    widest = 24.0 if len(classes) <= _MOST_NAMES else 12.0
    side = min(max(4.0, 0.55 * len(classes) + 2.0), widest)
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    axes.imshow(shares_cc, cmap="Blues", vmin=0, vmax=1)
    _name_rows(axes.xaxis, classes, "predicted", rotation=90)
    _name_rows(axes.yaxis, classes, "true")
    axes.set_title("Confusion matrix, test set")
    if len(classes) <= _MOST_CELLS_WITH_NUMBERS:
        _write_counts(axes, counts_cc, shares_cc)
    save_figure(figure, stem)


def plot_class_confusion(
    confusion: tuple[tuple[int, int, int, int], ...], classes: tuple[str, ...], stem: Path
) -> None:
    """Write ``stem``.png and .svg for several labels an image: a row a class.

    ``confusion`` holds true negatives, false positives, false negatives and true positives. Cells
    are shaded by their share of the images that have the label, or that have it not.
    """
    counts_k22 = np.array(confusion).reshape(-1, 2, 2)
    shares_k22 = counts_k22 / np.maximum(counts_k22.sum(axis=2, keepdims=True), 1)
    figure = new_figure(6.0, min(max(3.0, 0.4 * len(classes) + 2.0), 24.0))
    axes = figure.add_subplot()
    axes.imshow(shares_k22.reshape(-1, 4), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    kinds = ("true\nnegative", "false\npositive", "false\nnegative", "true\npositive")
    axes.set_xticks(range(4), kinds)
    _name_rows(axes.yaxis, classes, "")
    axes.set_title("Each class by itself, test set")
    if len(classes) <= _MOST_ROWS_WITH_NUMBERS:
        _write_counts(axes, counts_k22.reshape(-1, 4), shares_k22.reshape(-1, 4))
    save_figure(figure, stem)


def _name_rows(axis: Axis, classes: tuple[str, ...], what: str, rotation: int = 0) -> None:
    """Name the rows or columns of a matrix by their classes, as far as names have room."""
    if len(classes) <= _MOST_NAMES:
        axis.set_ticks(range(len(classes)), [plain(name) for name in classes], rotation=rotation)
        axis.set_label_text(what)
    else:
        axis.set_ticks([])
        axis.set_label_text(f"{what} ({len(classes):,} classes in the report's order)".strip())


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), n in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(n), ha="center", va="center", color=colour, fontsize=8)


def plot_learning_curve(history: Path, chosen_epoch: int, stem: Path) -> None:
    """Write ``stem``.png and .svg from a history.jsonl; the chosen epoch is marked.

    Raises ``OSError`` or ``ValueError`` as ``read_history`` does.
    """
    from matplotlib.ticker import MaxNLocator

    records = read_history(history)
    epochs = [record.epoch for record in records]
    figure = new_figure(9.0, 3.6)
    for position, name in enumerate(("loss", "accuracy"), start=1):
        axes = figure.add_subplot(1, 2, position)
        for split in ("train", "val"):
            values = [getattr(record, f"{split}_{name}") for record in records]
            axes.plot(epochs, values, marker=".", label=split)
        axes.axvline(chosen_epoch, color="grey", linestyle=":", label="chosen")
        axes.set_xlabel("epoch")
        axes.set_title(f"{name} (nats)" if name == "loss" else name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    save_figure(figure, stem)


def plain(name: str, longest: int = 24) -> str:
    """Return a name as matplotlib writes it out, cut to ``longest`` characters."""
    # matplotlib reads $…$ as mathematics and stops on a class called "$a"
    return (name if len(name) <= longest else f"{name[: longest - 1]}…").replace("$", r"\$")
