"""What went wrong in one process, as another one raises it again."""

from __future__ import annotations

import json
from pathlib import Path

from tasks import errors
from tasks.errors import GraftError

_FILE = "problem.json"


def as_words(error: GraftError) -> str:
    """Return an error as JSON."""
    return json.dumps({"kind": type(error).__name__, "text": str(error)})


def as_error(words: str) -> GraftError:
    """Return the error that ``as_words`` wrote."""
    found = json.loads(words)
    kind: type[GraftError] = getattr(errors, found["kind"])
    return kind(found["text"])


def write_problem(scratch: Path, error: GraftError) -> None:
    """Leave what went wrong first where the process that started this one finds it."""
    try:
        with (scratch / _FILE).open("x") as file:
            file.write(as_words(error))
    except FileExistsError:  # another process was first
        pass


def read_problem(scratch: Path) -> GraftError | None:
    """Return the error that the first process to fail wrote down."""
    path = scratch / _FILE
    return as_error(path.read_text()) if path.is_file() else None
