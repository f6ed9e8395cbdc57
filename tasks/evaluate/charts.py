"""The charts of the page as SVG without a word of the user's; the page's colours fill them.

Their text is text, and colours are variables of the page's style, so that they are readable in
light, dark and print. Names of classes stand in the page beside them, escaped by its template.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.evaluate.plots import new_figure
from tasks.finetune.progress import EpochRecord
from tasks.measures import Curve, ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GROUND = "#010101", "#020202", "#030303"
LINES = tuple(f"#04040{k}" for k in range(1, 9))
_VARIABLES = {INK: "--ink", FAINT: "--faint", GROUND: "--ground"} | {
    colour: f"--line-{k}" for k, colour in enumerate(LINES, start=1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "graft",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
}
_NO_DATE = {"Date": None, "Creator": None, "Format": None, "Type": None}
_DRAWING = re.compile(r"<svg.*</svg>", re.DOTALL)
_LEFT_TO_THE_PAGE = re.compile(
    r"<style.*?</style>"  # it would hold for the whole page
    r'| xmlns(:xlink)?="[^"]+"|xlink:(?=href)'  # HTML knows them
    r"|font-family: [^;]+; ",
    re.DOTALL,
)
_PATH = re.compile(r' d="[^"]+"')
_LONG = re.compile(r"(\.\d\d)\d+")  # a hundredth of a point is enough
_ID = re.compile(r' id="([^"]+)"')
_POINTER = re.compile(r'(?<=[("])#([\w-]+)')  # url(#…) and href="#…"
MOST_GREY = 42  # curves drawn beside the coloured ones


def learning_curve(epochs: Sequence[EpochRecord], name: str, chosen: int) -> str:
    """Draw ``train_NAME`` and ``val_NAME`` of each epoch; the chosen one is marked."""
    from matplotlib.ticker import MaxNLocator

    with _style():
        figure, axes = _axes("epoch", "loss (nats)" if name == "loss" else name)
        x = [record.epoch for record in epochs]
        for split, words, colour in (("train", "training", 1), ("val", "validation", 2)):
            y = [getattr(record, f"{split}_{name}") for record in epochs]
            axes.plot(x, y, marker=".", color=LINES[colour - 1], label=words)
        axes.axvline(chosen, color=FAINT, linestyle=":", label="chosen")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return _svg(figure, f"learning curve of {name}")


def roc_chart(drawn: Sequence[Curve], others: Sequence[Curve]) -> str:
    """Draw ROC curves: at most eight in colour, the others in grey."""
    with _style():
        figure, axes = _square("false positive rate", "true positive rate")
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":")
        for curve, style in _styled(drawn, others):
            axes.plot(curve.false_positive_rate, curve.true_positive_rate, **style)
        return _svg(figure, "ROC curves")


def precision_recall_chart(drawn: Sequence[Curve], others: Sequence[Curve]) -> str:
    """Draw precision over recall: at most eight classes in colour, the others in grey."""
    with _style():
        figure, axes = _square("recall", "precision")
        for curve, style in _styled(drawn, others):
            # precision holds down to the next lower recall: no line may promise more between
            points = sorted(zip(curve.recall, curve.precision, strict=True), reverse=True)
            axes.plot(*zip(*points, strict=True), drawstyle="steps-post", **style)
        return _svg(figure, "precision over recall")


def reliability_chart(bins: Sequence[ReliabilityBin], multi_label: bool = False) -> str:
    """Draw the share that is right over the stated confidence, and how many images say it.

    Of several labels, the share that an image has over the stated probability, and how many.
    """
    share, of = (
        ("share that is there", "labels") if multi_label else ("share that is right", "images")
    )
    with _style():
        figure = new_figure(4.2, 4.6)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        centres = np.array([(one.low + one.high) / 2 for one in bins])
        widths = np.array([one.high - one.low for one in bins]) * 0.9
        filled = [k for k, one in enumerate(bins) if one.accuracy is not None]
        right = [bins[k].accuracy for k in filled]
        said = [bins[k].confidence for k in filled]
        above.bar(centres[filled], right, widths[filled], color=LINES[0], alpha=0.55)
        above.plot(said, right, "o", markersize=3.5, color=INK)
        above.plot([0, 1], [0, 1], color=FAINT, linestyle=":")
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel=share)
        below.bar(centres, [one.n for one in bins], widths, color=FAINT, alpha=0.7)
        below.set(xlabel="stated confidence", ylabel=of)
        return _svg(figure, "reliability diagram")


def _styled(drawn: Sequence[Curve], others: Sequence[Curve]) -> list[tuple[Curve, dict[str, Any]]]:
    grey: dict[str, Any] = {"color": FAINT, "alpha": 0.5, "linewidth": 0.8}
    colours = zip(drawn, LINES, strict=False)
    return [
        *((curve, grey) for curve in others[:MOST_GREY]),
        *((curve, {"color": colour, "linewidth": 1.6}) for curve, colour in colours),
    ]


def _style() -> AbstractContextManager[None]:
    from matplotlib import rc_context

    return rc_context(_STYLE)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = new_figure(4.6, 3.0)
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _square(x: str, y: str) -> tuple[Figure, Axes]:
    figure = new_figure(4.2, 4.2)
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    return figure, axes


def _svg(figure: Figure, label: str) -> str:
    """Return the figure as an SVG element for a page that holds several: no id is in two."""
    stem = label.replace(" ", "-")
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata=_NO_DATE, transparent=True)
    text = content.getvalue()
    text = _DRAWING.search(text)[0]  # type: ignore[index] # savefig writes one
    text = _LEFT_TO_THE_PAGE.sub("", text)
    text = _PATH.sub(lambda path: _LONG.sub(r"\1", path[0]).replace("\n", ""), text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    pointed_at = set(_POINTER.findall(text))
    text = _ID.sub(lambda m: f' id="{stem}-{m[1]}"' if m[1] in pointed_at else "", text)
    text = _POINTER.sub(rf"#{stem}-\1", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
