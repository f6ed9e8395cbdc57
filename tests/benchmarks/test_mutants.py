"""The mutants that are tried, and the list of those that nothing can tell apart."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = '''
import functools

KINDS = ("plain", "a message to people")


class Box:
    """A class."""

    @property
    def full(self) -> bool:
        return self.n >= 3


@functools.lru_cache(maxsize=64)
def least(n: int = 2) -> int:
    return n if n > 0 else "none here"
'''


@pytest.fixture(scope="module")
def mutants(repository: Path) -> ModuleType:
    """Return the benchmark, which is imported from the repository's root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository))
        from tests.benchmarks import mutants

        return mutants


def test_what_has_a_decorator_is_mutated_and_messages_and_types_are_not(mutants: ModuleType):
    found = {mutant.key: mutant.source for mutant in mutants.mutants_of(SOURCE)}
    line = 'return n if n > 0 else "none here"'
    assert found.keys() == {
        ("", 'KINDS = ("plain", "a message to people")', "KINDS = None"),
        (
            "",
            'KINDS = ("plain", "a message to people")',
            'KINDS = ("XXplainXX", "a message to people")',
        ),
        ("Box.full", "return self.n >= 3", "return self.n > 3"),
        ("Box.full", "return self.n >= 3", "return self.n >= 4"),
        ("least", "def least(n: int = 2) -> int:", "def least(n: int = 3) -> int:"),
        ("least", line, line.replace("n > 0", "(n > 0) and False")),
        ("least", line, line.replace("n > 0", "(n > 0) or True")),
        ("least", line, line.replace(">", ">=")),
        ("least", line, line.replace("0", "1")),
    }
    for (_, before, after), text in found.items():
        assert text == SOURCE.replace(before, after)


def test_every_file_and_test_that_is_named_is_there(mutants: ModuleType, repository: Path):
    for held in (held for files in mutants.AREAS.values() for held in files):
        assert (repository / held.path).is_file()
        for test in held.tests:
            file, _, function = test.partition("::")
            assert f"def {function.partition('[')[0]}" in (repository / file).read_text(), test


def functions(tree: ast.AST, outer: str = "") -> dict[str, ast.AST]:
    """Return functions and classes by dotted name; the module's is empty."""
    found = {outer: tree}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found |= functions(node, f"{outer}.{node.name}".lstrip("."))
    return found


def test_what_is_explained_is_still_there(mutants: ModuleType, repository: Path):
    """An explanation of code that has changed explains nothing."""
    for (path, where, before, after), why in mutants.explained().items():
        text = (repository / path).read_text()
        node = functions(ast.parse(text))[where]
        source = ast.get_source_segment(text, node) if where else text
        assert before in " ".join(source.split()), (path, where)
        assert before != after
        assert len(why) > 10
