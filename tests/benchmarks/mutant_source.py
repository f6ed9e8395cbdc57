"""Every mutant of a file that mutmut's operators make, each as the whole text of the file.

mutmut itself leaves functions with a decorator alone, because it keeps all mutants in one file.
Here each is a file of its own, so that properties and context managers are mutated too. Left out
are what only a message to people says (a string with a space in it), names of types, a second and
third change of one string, and mutants that Python compiles to the very same code.
"""

from __future__ import annotations

import ast
import marshal
from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper
from mutmut.mutation.file_mutation import Mutation, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

_TYPES = (
    m.Assign(value=m.Call(func=m.Name("TypeVar")))
    | m.Assign(value=m.Subscript())
    | m.Assign(value=m.Name("Any"))
    | m.AnnAssign(annotation=m.Annotation(m.Name("TypeAlias")))
)


class Mutant(NamedTuple):
    """One change of a file; ``where`` and the two texts name it, wherever its lines move to."""

    where: str  # function, or method with its class
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.where, self.before, self.after


class _Visitor(MutationVisitor):
    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef) and node.decorators:
            return False  # the decorators themselves are skipped by their own rule
        return m.matches(node, _TYPES) or super()._skip_node_and_children(node)


def mutants_of(source: str) -> Iterator[Mutant]:
    """Yield each mutant of a module's ``source`` once."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = _Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
    module = wrapper.visit(visitor)
    seen = {_code(source)}
    for mutation in visitor.mutations:
        if _is_left_out(mutation):
            continue
        text = module.deep_replace(mutation.original_node, mutation.mutated_node).code
        code = _code(text)
        if code is not None and code not in seen:
            seen.add(code)
            yield Mutant(*_change(source, text), text)


def _is_left_out(mutation: Mutation) -> bool:
    node, changed = mutation.original_node, mutation.mutated_node
    if not isinstance(node, cst.SimpleString) or not isinstance(changed, cst.SimpleString):
        return False
    return " " in node.raw_value or not changed.raw_value.startswith("XX")  # not only its case


def _code(source: str) -> bytes | None:
    """Return what the text compiles to, lines and columns apart; None where it is no Python."""
    try:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.expr | ast.stmt | ast.excepthandler | ast.arg | ast.keyword):
                node.lineno = node.end_lineno = 1
                node.col_offset = node.end_col_offset = 0
        return marshal.dumps(compile(tree, "module", "exec", dont_inherit=True))
    except SyntaxError:
        return None


def _change(source: str, text: str) -> tuple[str, str, str]:
    """Return the function that differs, and its differing lines before and after."""
    old, new = source.splitlines(), text.splitlines()
    first = next(i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1])
    same = 0
    while same < min(len(old), len(new)) - first and old[-1 - same] == new[-1 - same]:
        same += 1
    lines = [part[first : len(part) - same] for part in (old, new)]
    before, after = (" ".join(" ".join(part).split()) for part in lines)
    return _function_at(ast.parse(source), first + 1), before, after


def _function_at(tree: ast.Module, line: int) -> str:
    names, body = [], tree.body
    while True:
        for node in body:
            kinds = (ast.FunctionDef, ast.ClassDef)
            if isinstance(node, kinds) and node.lineno <= line <= (node.end_lineno or 0):
                names.append(node.name)
                body = node.body
                break
        else:
            return ".".join(names)
