"""The YAML that configs are written in: few types, nothing guessed, no tags, aliases or repeats."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tasks.errors import ConfigError

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


def parse(content: bytes | str, where: str) -> Any:  # noqa: ANN401 - YAML holds anything
    """Return what YAML text means; raises ``ConfigError`` that opens with ``where``."""
    import yaml

    try:
        return yaml.load(content, Loader=_loader())  # noqa: S506 - a SafeLoader with fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = " ".join(str(error.problem or error.context).split())
    except (yaml.YAMLError, RecursionError, ValueError, LookupError) as error:  # !!bool abc
        # what Python says of a number with too many digits goes on with advice for programmers
        line, problem = "", " ".join(str(error).partition(";")[0].split())[:200]
    kind = "value" if isinstance(content, str) else "file's syntax, and save it as UTF-8"
    raise ConfigError(f"{where}{line}: not YAML: {problem}.\nCorrect the {kind}.")


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

        def construct_scalar(self, node: Any) -> Any:  # noqa: ANN401
            value = super().construct_scalar(node)
            if _is_torn(str(value)):
                problem = "half of a surrogate pair, which is no character"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
            return value

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401
            twice = _repeated(node.value)
            if twice is not None:
                problem = f"the key {twice.value!r} appears twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=twice.start_mark)
            return super().construct_mapping(node, deep)

    _resolve(Loader)
    return Loader


def _repeated(pairs: Any) -> Any:  # noqa: ANN401 - PyYAML's nodes
    """Return the first key of a mapping that is there already; None where there is none."""
    seen: set[str] = set()
    for key, _ in pairs:
        if str(key.value) in seen:
            return key
        seen.add(str(key.value))
    return None


def _is_torn(text: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in text)


@cache
def dumper() -> type[Any]:
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
