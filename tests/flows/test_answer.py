"""What is printed is what was found: no name is read as markup, or cut, or breaks the output."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flows.answer import Cells


@pytest.fixture
def photo(workspace: Path) -> Path:
    return workspace / "photos" / "red" / "0.png"


@pytest.mark.parametrize("name", ["z[/b].png", "[red]x.png", f"{'long ' * 40}.png"])
def test_a_file_name_is_printed_as_it_is(photo: Path, tmp_path: Path, graft, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = shutil.copy(photo, tmp_path / name)
    result = graft("predict", str(path))
    assert result.code == 0, result.err
    assert f" {path} " in result.out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_file_name_that_is_no_utf8(photo: Path, tmp_path: Path, options: tuple[str, ...]):
    path = shutil.copy(photo, tmp_path / os.fsdecode(b"caf\xe9.png"))
    command = [sys.executable, "-m", "flows.cli", "predict", path, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)["predictions"][0]["path"] if options else done.stdout
    assert (str(path) if options else "caf\\udce9.png") in shown


def test_an_error_about_a_file_name_that_is_no_utf8(workspace: Path):
    missing = os.fsdecode(b"caf\xe9.png")
    command = [sys.executable, "-m", "flows.cli", "predict", missing, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert "caf\\udce9.png" in json.loads(done.stdout)["error"]["message"]
    assert "Traceback" not in done.stderr


def test_on_a_narrow_terminal_a_long_cell_is_folded_whole():
    table = Cells("path", "label")
    table.add("folder/" * 20, "red")
    screen = io.StringIO()
    Console(file=screen, width=40).print(table)
    first = "".join(line[:33].strip() for line in screen.getvalue().splitlines()[1:])
    assert first.replace(" ", "").startswith("folder/" * 20)


def test_a_reader_that_has_gone_ends_a_command_as_its_signal_would():
    code = """
import typer
from flows.answer import Answer
from flows.printing import print_answer
try:
    print_answer(Answer({}, [("a", "fact")]), as_json=False)
except typer.Exit as stopped:
    raise SystemExit(stopped.exit_code)
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
