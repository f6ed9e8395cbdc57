"""Values put over those of a run by dotted keys: how the runs of a grid or a search differ."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

Changes = dict[str, Any]  # dotted keys or nested sections of a run, with their values


def put_over(
    settings: dict[str, Any], changes: Mapping[str, Any], sections: Collection[str]
) -> None:
    """Replace the values of a run that ``changes`` names; sections are merged.

    Raises ``ValueError`` for a key outside ``sections``, and one below what is no section.
    """
    for key, value in leaves("", changes):
        *above, last = key.split(".")
        if (above or [last])[0] not in sections:
            raise ValueError(f"{key} cannot differ between cells: set base.{key}")
        place = settings
        for section in above:
            if not isinstance(place.get(section), dict):
                raise ValueError(f"{key} is not a known key")
            place = place[section]
        place[last] = value


def leaves(prefix: str, changes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each value that is no mapping, with its dotted key."""
    for key, value in changes.items():
        if isinstance(value, dict):
            yield from leaves(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def first_problem(error: ValidationError) -> str:
    """Return the first thing that is wrong with a run, its key first."""
    details = error.errors()[0]
    key = ".".join(str(part) for part in details["loc"]) or "the run"
    if details["type"] == "extra_forbidden":
        return f"{key} is not a known key"
    return f"{key}: {details['msg'].removeprefix('Value error, ')}"
