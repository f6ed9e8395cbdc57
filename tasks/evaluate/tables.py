"""Words that a user chose, put into Markdown and CSV so that they are shown as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.words import as_cell, printable

if TYPE_CHECKING:
    import pandas as pd

# entities, which CommonMark (section 2.5) never takes for markup: a class may be called ![](…)
_MARKUP = {ord(character): f"&#{ord(character)};" for character in "|`[]*\\$~"}
_MARKUP |= {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord("\n"): " "}
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # within a word an underscore is just that


def markdown_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table whose first row is its head; cells are escaped."""
    lines = ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def markdown_cells(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows for a table whose words are read as Markdown, as those of Prefect's pages are."""
    return [
        {
            name: escape_markdown(cell) if isinstance(cell, str) else cell
            for name, cell in row.items()
        }
        for row in rows
    ]


def csv_for_people(table: pd.DataFrame) -> bytes:
    """Return ``table`` as CSV in which no cell and no heading is a formula, but text."""
    named = table.rename(columns=lambda name: as_cell(str(name)))
    cells = named.map(lambda cell: as_cell(cell) if isinstance(cell, str) else cell)
    return cells.to_csv(index=False).encode()


def escape_markdown(text: str) -> str:
    """Return ``text`` as one line that Markdown shows as it is, within a line of its own words."""
    return _EMPHASIS.sub("&#95;", printable(text.translate(_MARKUP)))
