"""What went wrong in one process, as another one raises it again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tasks import errors
from tasks.errors import GraftError, ResourceError

_KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, GraftError)
}


class _Told(BaseModel):
    kind: str
    text: str


def as_words(error: GraftError) -> str:
    """Return an error as JSON; a kind that ``tasks.errors`` lacks as the kind above it."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind in _KINDS.values())
    return _Told(kind=kind, text=str(error)).model_dump_json()


def as_error(words: str) -> GraftError:
    """Return the error that ``as_words`` wrote; what it did not write is an error as well."""
    try:
        told = _Told.model_validate_json(words)
        return _KINDS[told.kind](told.text)
    except (ValidationError, KeyError):
        return ResourceError(
            f"A training process wrote down what is no error of graft's: {words[:100]!r}.\n"
            "Install the same version of graft on all nodes, and keep their network private."
        )


def write_first(path: Path, error: GraftError) -> None:
    """Leave what went wrong at ``path``, unless another process was first."""
    with suppress(FileExistsError), path.open("x") as file:
        file.write(as_words(error))


def read_error(path: Path) -> GraftError | None:
    """Return the error that the first process to fail wrote down, None where none did."""
    return as_error(path.read_text()) if path.is_file() else None
