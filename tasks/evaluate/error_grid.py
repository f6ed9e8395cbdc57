"""The worst errors side by side in one picture, each with what it is and what it was taken for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.artifacts import write_atomic
from tasks.evaluate.plots import new_figure, plain
from tasks.measures import ExplainedImage

Picture = npt.NDArray[np.uint8]  # (h, w, 3)

_COLUMNS = 4
_DPI = 120
_WIDTH, _HEIGHT = 3.4, 2.3  # inches, of a picture and its heat map with their caption
_LONGEST_PATH = 44  # characters


def save_grid(
    path: Path,
    explained: Sequence[ExplainedImage],
    pictures: Sequence[Picture],
    overlays: Sequence[Picture | None],
) -> None:
    """Write a PNG of all pictures, each beside its overlay, with truth, prediction and path."""
    columns = min(_COLUMNS, len(explained))
    rows = -(-len(explained) // columns)
    figure = new_figure(_WIDTH * columns, _HEIGHT * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    tiles = zip(grid.flat, explained, pictures, overlays, strict=False)  # the last row has gaps
    for axes, one, picture, overlay in tiles:
        both = picture if overlay is None else np.concatenate((picture, overlay), axis=1)
        axes.imshow(both, interpolation="nearest")
        axes.set_title(caption(one), fontsize=7)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    write_atomic(path, content.getvalue())


def caption(one: ExplainedImage) -> str:
    """Return two lines for matplotlib: what it is and was taken for, how surely, and its path."""
    truth, prediction = (plain(name) or "no label" for name in (one.label, one.prediction))
    long = len(one.path) > _LONGEST_PATH
    path = f"…{one.path[1 - _LONGEST_PATH :]}" if long else one.path
    return f"{truth} taken for {prediction}, {one.confidence:.0%}\n{plain(path, _LONGEST_PATH)}"
