"""What went wrong in one process, as another one raises it again."""

from __future__ import annotations

import os
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
    process: int | None = None


def as_words(error: GraftError, process: int | None = None) -> str:
    """Return an error as JSON; a kind that ``tasks.errors`` lacks as the kind above it.

    ``process`` is the number among all of a training of the one that met it.
    """
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind in _KINDS.values())
    return _Told(kind=kind, text=str(error), process=process).model_dump_json()


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


def told_by(words: str) -> int | None:
    """Return the number of the process that wrote ``words``, None where they do not say."""
    try:
        return _Told.model_validate_json(words).process
    except ValidationError:
        return None


def write_first(path: Path, words: str) -> None:
    """Leave ``words`` at ``path``, whole, unless another process was first.

    A disk that takes none gets none: that must not hide what went wrong.
    """
    own = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        own.write_text(words)
        path.hardlink_to(own)
    own.unlink(missing_ok=True)  # written anew it would change what is linked


def read_words(path: Path) -> str | None:
    """Return what the first process to fail wrote down, None where none did."""
    return path.read_text() if path.is_file() else None
