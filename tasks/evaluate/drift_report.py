"""A check for drift as files: Markdown, JSON, and a picture of the most unusual images."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tasks.artifacts import write_atomic
from tasks.evaluate.plots import new_figure, plain
from tasks.evaluate.tables import markdown_table
from tasks.evaluate.watch_report import common_rows, opening, p_words, percent, write_watch
from tasks.monitorvalues import DriftReport, ShiftTest, UnusualImage

MOST_CLASSES = 20  # rows of the table
UNUSUAL = "unusual.png"
_COLUMNS, _SIDE, _DPI = 6, 1.9, 120  # inches
_LONGEST = 26  # characters

EXPLAINED = """The features of the new images are held against those of the reference: images that \
the model did not learn from, kept when it was registered. Kernel test: unbiased MMD, p by \
permutation (Gretton et al. 2012). Classifier test: whether a classifier trained on one half tells \
new from reference in the other (Lopez-Paz & Oquab 2017); its AUC is 0.5 where nothing tells them \
apart and 1 where everything does. A difference may be one of the pictures (blur, light, another \
camera) or of what is on them: the shares of the classes say which is likelier."""


def write_drift(report: DriftReport) -> None:
    """Write drift.json and drift.md; raises ``ResourceError`` for a full disk."""
    write_watch(report, "drift", drift_markdown(report))


def drift_markdown(report: DriftReport) -> str:
    """Return the check as Markdown."""
    lines = [
        *opening(report),
        *markdown_table([("fact", "value"), *common_rows(report), *_own_rows(report)]),
        "",
        "## Tests",
        "",
        EXPLAINED,
        "",
        *markdown_table(test_table(report.tests)),
        "",
        "## What the model takes the images for",
        "",
        *markdown_table(share_table(report)),
        "",
    ]
    if report.unusual:
        lines += ["## Least like the reference", "", f"![]({UNUSUAL})", ""]
        lines += markdown_table(_unusual_table(report.unusual))
    return "\n".join(lines) + "\n"


def test_table(tests: Sequence[ShiftTest]) -> list[tuple[str, ...]]:
    """Return the tests as text, their head first."""
    rows: list[tuple[str, ...]] = [("test", "statistic", "p", "level", "says")]
    for one in tests:
        what = (
            f"AUC {one.statistic:.3f}" if one.name == "classifier" else f"MMD² {one.statistic:.3g}"
        )
        says = "different" if one.rejected else "no difference shown"
        rows.append(
            (one.name, what, p_words(one.p_value).removeprefix("= "), f"{one.level:g}", says)
        )
    return rows


def share_table(report: DriftReport) -> list[tuple[str, ...]]:
    """Return the classes' shares as text, those that changed most first."""
    rows = sorted(report.shares, key=lambda one: -abs(one.new - one.reference))[:MOST_CLASSES]
    table: list[tuple[str, ...]] = [("class", "reference", "new images")]
    return table + [(one.name, percent(one.reference), percent(one.new)) for one in rows]


def _own_rows(report: DriftReport) -> list[tuple[str, str]]:
    origin = {"version": "kept with the version", "base": "made from base"}[report.reference_from]
    rows = [
        ("reference", f"{report.reference_n:,} images, {report.dimension:,} features, {origin}"),
        ("reference digest", report.reference_digest),
    ]
    if report.novel_reference is not None and report.novel_new is not None:
        novel = f"{percent(report.novel_new)}, of the reference {percent(report.novel_reference)}"
        rows.append(("called novel by energy", novel))
    if report.share_distance is not None:
        rows.append(
            ("classes' shares differ by", f"{percent(report.share_distance)} of the images")
        )
    return rows


def _unusual_table(unusual: Sequence[UnusualImage]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("image", "taken for", "confidence")]
    return rows + [(one.path, one.prediction, percent(one.confidence)) for one in unusual]


def save_unusual(report: DriftReport, pictures: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Write unusual.png, the pictures side by side with their names, where there are any."""
    if not pictures:
        return
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = new_figure(_SIDE * columns, (_SIDE + 0.35) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, one, picture in zip(grid.flat, report.unusual, pictures, strict=False):
        axes.imshow(picture, interpolation="nearest")
        path = one.path if len(one.path) <= _LONGEST else f"…{one.path[1 - _LONGEST :]}"
        words = plain(one.prediction) or "no label"
        axes.set_title(f"{words}, {one.confidence:.0%}\n{plain(path, _LONGEST)}", fontsize=6)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    write_atomic(report.folder / UNUSUAL, content.getvalue())
