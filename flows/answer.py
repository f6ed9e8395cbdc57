"""What a command gives back: for machines, and as tables and lines for people."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.errors import GraftError
from tasks.words import printable

Rows = list[tuple[str, str]]
UNCUT = 1_000_000  # columns, where nobody looks at the lines' width


class _Console(Console):
    """A console that tells that nobody reads any more: rich would end the program instead."""

    def on_broken_pipe(self) -> None:
        """Pass the error on that rich has caught."""
        raise BrokenPipeError


class Cells(Table):
    """A table of plain words: none is read as markup, and a long one is folded, not cut."""

    def __init__(self, *headers: str) -> None:
        super().__init__(box=None)
        for header in headers:
            self.add_column(header, overflow="fold")

    def add(self, *cells: str) -> None:
        """Add a row; what a terminal would act on is escaped."""
        self.add_row(*(Text(printable(cell)) for cell in cells))


@dataclass
class Answer:
    """A command's result: for machines, for people, and the problem it found, if any."""

    data: dict[str, Any]
    facts: Rows = field(default_factory=list)
    table: RenderableType | None = None
    problem: GraftError | None = None

    def show(self) -> None:
        """Print the result for people on standard output; where that is no terminal, uncut."""
        console = _Console(width=None if sys.stdout.isatty() else UNCUT)
        if self.table is not None:
            console.print(self.table)
        for name, fact in self.facts:
            line = f"{name:<11} {printable(fact)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
