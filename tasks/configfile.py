"""Read a run's YAML file, apply the command line's overrides, and say plainly what is wrong."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

from pydantic import BaseModel, ValidationError

from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.recipe import Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

AnyConfig = TypeVar("AnyConfig", bound=Section)

COMMAND_LINE = "command line"
# the scalars of YAML 1.2: 1e-3 is a number; yes, no, on, off and dates are words
_SCALARS = {
    "null": (re.compile(r"(~|null|Null|NULL|)\Z"), "~nN\0"),
    "bool": (re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), "tTfF"),
    "int": (re.compile(r"[-+]?(0|[1-9][0-9]*)\Z"), "-+0123456789"),
    "float": (
        re.compile(
            r"([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
        ),
        "-+.0123456789",
    ),
}

_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + kind for kind in (*_SCALARS, "str", "seq", "map")}


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
    return yaml.dump(values, Dumper=_dumper(), sort_keys=False, allow_unicode=True)


def _read_mapping(path: Path, example: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: the config cannot be read: {error.strerror or error}.\n"
            f"Name a YAML file such as {example}."
        ) from error
    settings = _parse(content, str(path))
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{path}: the config is not a mapping of sections.\n"
            f"See {example} for one with every key."
        )
    return settings


def _parse(content: bytes | str, where: str) -> Any:  # noqa: ANN401 - YAML holds anything
    import yaml

    try:
        return yaml.load(content, Loader=_loader())  # noqa: S506 - a SafeLoader with fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = " ".join(str(error.problem or error.context).split())
    except (yaml.YAMLError, RecursionError, ValueError, LookupError) as error:  # !!bool abc
        line, problem = "", " ".join(str(error).split())[:200]
    raise ConfigError(f"{where}{line}: not YAML: {problem}.\nCorrect the file's syntax.")


@cache
def _loader() -> type[Any]:
    """Return a SafeLoader that knows _SCALARS alone and refuses repeated keys and aliases."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base declares it

        def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401 - PyYAML's own
            if self.check_event(yaml.AliasEvent):
                mark = self.get_mark()
                raise yaml.MarkedYAMLError(problem="aliases are not supported", problem_mark=mark)
            node = super().compose_node(parent, index)
            if node is not None and node.tag not in _TAGS:
                problem = f"the tag {node.tag!r} is not supported"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401
            seen: set[str] = set()
            for key, _ in node.value:
                name = str(key.value)
                if name in seen:
                    problem = f"the key {name!r} appears twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(name)
            return super().construct_mapping(node, deep)

    _resolve(Loader)
    return Loader


@cache
def _dumper() -> type[Any]:
    """Return a SafeDumper that quotes what _SCALARS or YAML 1.1 would take for no string."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    _resolve(Dumper)
    return Dumper


def _resolve(kind_of_yaml: type[Any]) -> None:
    for kind, (pattern, first) in _SCALARS.items():
        letters = [letter.strip("\0") for letter in first]
        kind_of_yaml.add_implicit_resolver(_TAG + kind, pattern, letters)


def _apply_override(settings: dict[str, Any], override: str) -> str:
    """Set one value in ``settings`` and return its dotted key."""
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not all((*sections, last)):
        raise ConfigError(
            f"{COMMAND_LINE}: {override!r} is not an override.\n"
            "Write key=value, for example training.epochs=3."
        )
    place = settings
    for section in sections:
        if not isinstance(place.get(section), dict):
            place[section] = {}
        place = place[section]
    place[last] = _parse(text, f"{COMMAND_LINE}, {key}")
    return key.strip()


def _explain(
    path: Path, overridden: Sequence[str], error: ValidationError, model: type[Section]
) -> str:
    """Put every error of a config into two lines."""
    problems = [_problem(details, model) for details in error.errors()]
    if len(problems) == 1:
        key, what, advice = problems[0]
        where = COMMAND_LINE if key in overridden else str(path)
        return f"{where}: {key} {what}.\n{advice}"
    listed = "; ".join(
        f"{key} {what} ({advice})" if advice.endswith("?") else f"{key} {what}"
        for key, what, advice in problems
    )
    return f"{path}: {len(problems)} values are wrong.\n{listed}."


def _problem(details: ErrorDetails, model: type[Section]) -> tuple[str, str, str]:
    """Return the dotted key, what is wrong with it, and what to do."""
    key = " ".join(".".join(str(part) for part in details["loc"]).split()) or "config"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        near = _nearest(key, model)
        advice = f"Did you mean {near}?" if near else f"See {model.example} for every key."
        return key, "is not a known key", advice
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
