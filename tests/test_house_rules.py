"""The rules of the house, each held by the tool that knows it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
SOURCES = sorted([*REPOSITORY.glob("tasks/**/*.py"), *REPOSITORY.glob("flows/*.py")])
LONGEST_FILE = 250
LONGEST_TASK = 30
TOP_LEVEL = {
    ".ci",
    ".deploy",
    ".git",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "configs",
    "docs",
    "flows",
    "mlruns",
    "prefect.yaml",
    "pyproject.toml",
    "tasks",
    "tests",
    "uv.lock",
}
# what the core may not need just to be imported
BLOCKED = (
    "prefect",
    "mlflow",
    "pandas",
    "pyarrow",
    "sklearn",
    "scipy",
    "matplotlib",
    "yaml",
    "typer",
    "rich",
)
IMPORT_CORE = """
import importlib, sys
for name in BLOCKED:
    sys.modules[name] = None  # importing it raises ImportError
for name in MODULES:
    importlib.import_module(name)
"""


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        ("mypy",),
        ("lint-imports", "--no-cache"),
        ("bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive", "tasks", "flows"),
    ],
    ids=" ".join,
)
def test_the_tools_have_nothing_to_say(command: tuple[str, ...]):
    done = subprocess.run(
        [TOOLS / command[0], *command[1:]], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_short_and_says_what_it_is_for(path: Path):
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines <= (LONGEST_TASK if path.name == "task.py" else LONGEST_FILE)
    assert ast.get_docstring(ast.parse(text))


def test_functions_are_short():
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 15


def test_every_exception_from_the_rules_of_security_says_why():
    marks = re.compile(r"# (?:noqa: (?:[A-Z0-9]+, )*S\d+|nosec)(.*)")
    for path in SOURCES:
        for line in path.read_text().splitlines():
            found = marks.search(line)
            assert found is None or " - " in found[1], f"{name(path)}: {line.strip()}"


def test_every_table_for_people_is_written_without_formulas():
    writers = [name(path) for path in SOURCES if ".to_csv(" in path.read_text()]
    assert writers == ["tasks/evaluate/tables.py"]  # csv_for_people
    for path in SOURCES:  # Prefect's pages read the cells of tables as Markdown
        text = path.read_text()
        assert "create_table_artifact(" not in text or "markdown_cells(" in text, name(path)


def test_what_bandit_passes_over_is_ruffs_and_it_sees_the_rest(tmp_path: Path):
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    passed_over = set(settings["bandit"]["skips"]) - {"B403", "B404"}
    assert "S" in settings["ruff"]["lint"]["select"]
    for code in passed_over:
        known = subprocess.run(
            [TOOLS / "ruff", "rule", code.replace("B", "S")], capture_output=True
        )
        assert known.returncode == 0, code
    hole = tmp_path / "hole.py"
    hole.write_text("import torch\n\nstate = torch.load('a.pth', weights_only=False)\n")
    command = [TOOLS / "bandit", "--quiet", "--configfile", "pyproject.toml", hole]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, "B614" in done.stdout) == (1, True)


def test_nothing_unknown_lies_at_the_top_of_the_repository():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


def test_no_package_of_tests_shadows_the_code():
    assert list(REPOSITORY.glob("tests/**/__init__.py")) == []
    assert [path for path in SOURCES if path.name in ("utils.py", "helpers.py")] == []


def test_the_core_imports_with_torch_and_pydantic_alone():
    core = [
        name(path).removesuffix(".py").replace("/", ".")
        for path in SOURCES
        if path.is_relative_to(REPOSITORY / "tasks")
        and path.name not in ("task.py", "__init__.py")
        and not path.is_relative_to(REPOSITORY / "tasks" / "register")
    ]
    code = f"BLOCKED = {BLOCKED!r}\nMODULES = {core!r}\n{IMPORT_CORE}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
