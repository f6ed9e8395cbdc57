"""What the cache's entries are written in: a part of their keys.

A version of graft that writes other fields, or computes with other packages, finds no entry of this
one's, and this one none of its: nothing is read wrongly, and nobody takes what the other uses for
damaged and makes it anew. The constants ``FORMAT`` of the rooms say the rest: how files are laid
out, and what is computed.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import metadata
from typing import Any

from pydantic import BaseModel

from tasks.artifacts import sha256_parts

_WORDS = ("title", "description")  # of a schema; they decide nothing


@cache
def fields_of(*values: type[BaseModel]) -> str:
    """Digest the fields of ``values`` and of what is in them: names, types and defaults."""
    schemas = (_without_words(value.model_json_schema()) for value in values)
    return sha256_parts(*(json.dumps(schema, sort_keys=True) for schema in schemas))


def _without_words(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """Return ``schema`` without what only explains it; a field may be called as a word is."""
    if isinstance(schema, list):
        return [_without_words(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_words(value)
        for key, value in schema.items()
        if key not in _WORDS or not isinstance(value, str)
    }


@cache
def versions_of(*packages: str) -> str:
    """Return the versions of the packages that decide what an entry holds, in words."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in packages)
