"""Read a run's YAML file, apply the command line's overrides, and say plainly what is wrong."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

from pydantic import BaseModel, ValidationError

from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.plainyaml import dumper, parse
from tasks.recipe import Section
from tasks.words import printable

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

AnyConfig = TypeVar("AnyConfig", bound=Section)

COMMAND_LINE = "command line"
LARGEST = 1 << 20  # bytes of a file; ours have some thousands, and PyYAML reads 60 KB a second
DEEPEST = 10  # sections in an override's key


@overload
def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig: ...
@overload
def load_config(path: Path, overrides: Sequence[str], model: type[AnyConfig]) -> AnyConfig: ...
def load_config(
    path: Path, overrides: Sequence[str] = (), model: type[Section] = RunConfig
) -> Section:
    """Return the ``model`` that ``path`` describes, each ``dotted.key=value`` override applied.

    Values are YAML; their types are not guessed (``epochs: "3"`` and ``epochs: yes`` are refused).
    A list is replaced as a whole: ``candidates=[{architecture: resnet18, weights: null}]``.
    Raises ``ConfigError`` that names the file, the key, what is wrong and what to do.
    """
    settings = _read_mapping(path, model.example)
    overridden = [_apply_override(settings, override) for override in overrides]
    try:
        # JSON, because its strict mode takes lists for tuples and strings for paths, nothing else
        return model.model_validate_json(json.dumps(settings), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(path, overridden, error, model)) from error


def dump_config(config: Section) -> str:
    """Return ``config`` as YAML with every value written out; ``load_config`` reads it back."""
    import yaml

    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=dumper(), sort_keys=False, allow_unicode=True)


def _read_mapping(path: Path, example: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"{printable(path)}: the config cannot be read: {error.strerror or error}.\n"
            f"Name a YAML file such as {example}."
        ) from error
    if len(content) > LARGEST:
        raise ConfigError(f"{path}: larger than {LARGEST:,} bytes: no config is.\nName another.")
    settings = parse(content, printable(path))
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{printable(path)}: the config is not a mapping of sections.\n"
            f"See {example} for one with every key."
        )
    return settings


def _apply_override(settings: dict[str, Any], override: str) -> str:
    """Set one value in ``settings`` and return its dotted key."""
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not all((*sections, last)) or len(sections) > DEEPEST:
        raise ConfigError(
            f"{COMMAND_LINE}: {override!r} is not an override.\n"
            "Write key=value, for example training.epochs=3."
        )
    place = settings
    for section in sections:
        if not isinstance(place.get(section), dict):
            place[section] = {}
        place = place[section]
    place[last] = parse(text, f"{COMMAND_LINE}, {printable(key)}")
    return key.strip()


def _explain(
    path: Path, overridden: Sequence[str], error: ValidationError, model: type[Section]
) -> str:
    """Put every error of a config into two lines."""
    problems = [_problem(details, model) for details in error.errors()]
    if len(problems) == 1:
        key, what, advice = problems[0]
        where = COMMAND_LINE if _was_typed(key, overridden, error) else printable(path)
        return f"{where}: {key} {what}.\n{advice}"
    listed = "; ".join(
        f"{key} {what} ({advice})" if advice.endswith("?") else f"{key} {what}"
        for key, what, advice in problems
    )
    return f"{printable(path)}: {len(problems)} values are wrong.\n{listed}."


def _was_typed(key: str, overridden: Sequence[str], error: ValidationError) -> bool:
    """Say whether the one error is about what was overridden, a part or, unless it clashes, more.

    Two settings that clash may stand in the file and on the command line.
    """
    clash = error.errors()[0]["type"] == "value_error"
    return any(
        f"{key}.".startswith(f"{typed}.") or (f"{typed}.".startswith(f"{key}.") and not clash)
        for typed in overridden
    )


def _problem(details: ErrorDetails, model: type[Section]) -> tuple[str, str, str]:
    """Return the dotted key, what is wrong with it, and what to do."""
    key = " ".join(".".join(str(part) for part in details["loc"]).split()) or "config"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        near = _nearest(key, model)
        advice = f"Did you mean {near}?" if near else f"See {model.example} for every key."
        return key, "is not a known key", advice
    if details["type"] == "missing" and isinstance(details["loc"][-1], int):
        listing, _, place = key.rpartition(".")
        return listing, f"has too few values, {place}", f"Correct {listing}."
    if details["type"] == "missing":
        return key, "is missing", f"Add {key}; {model.example} shows every key."
    if details["type"] == "value_error":
        return key, f"is wrong: {message}", "Change one of the two."
    message = message[0].lower() + message[1:]
    advice = known_keys(model).get(_placeless(key)) or f"Correct {key}."
    return key, f"is {_short(details['input'])}: {message}", advice


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _placeless(key: str) -> str:
    """Return a dotted key without places in lists, which known_keys leaves out."""
    return ".".join(part for part in key.split(".") if not part.isdigit())


def _nearest(key: str, model: type[Section]) -> str | None:
    """Return the valid dotted name most like ``key``; the same last part wins."""
    names = list(known_keys(model))
    key = _placeless(key)
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in names if name.rpartition(".")[2] == leaf]
    if same_leaf:
        return same_leaf[0]
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    near = near or difflib.get_close_matches(leaf, names, n=1, cutoff=0.5)
    return near[0] if near else None


@cache
def known_keys(model: type[Section] = RunConfig) -> Mapping[str, str]:
    """Return every valid dotted key, sections included, with its description ("" for none).

    The parts of a list of sections are there once, without a place: ``candidates.weights``.
    """
    return dict(_walk(model, ""))


def _walk(model: type[BaseModel], prefix: str) -> list[tuple[str, str]]:
    keys: list[tuple[str, str]] = []
    for name, field in model.model_fields.items():
        keys.append((prefix + name, field.description or ""))
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _walk(kind, f"{prefix}{name}.")
    return keys
