"""What is printed is what was found: no name is read as markup, or cut, or breaks the output."""

from __future__ import annotations

import io
import json
import os
import re
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
    result = graft("predict", str(path), "--model", "models:/small/1")
    assert result.code == 0, result.err
    assert f" {path} " in result.out


_PREDICT = """
import sys
from flows.cli import main
there, missing = sys.argv[1:]
for path, *options in ((there,), (there, "--json"), (missing, "--json")):
    print("code", main(["predict", path, "--model", "models:/small/1", *options]), flush=True)
"""


def test_a_file_name_that_is_no_utf8(photo: Path, tmp_path: Path):
    """Of a file that is there, and in an error; by real arguments, on a real output."""
    path = shutil.copy(photo, tmp_path / os.fsdecode(b"caf\xe9.png"))
    missing = os.fsdecode(b"no caf\xe9.png")
    command = [sys.executable, "-c", _PREDICT, path, missing]
    done = subprocess.run(command, capture_output=True, text=True)
    shown, told, refused, rest = re.split(r"^code \d+\n", done.stdout, flags=re.MULTILINE)
    assert (done.returncode, rest) == (0, ""), done.stderr
    assert re.findall(r"^code (\d+)$", done.stdout, re.MULTILINE) == ["0", "0", "3"]
    assert "caf\\udce9.png" in shown
    assert json.loads(told)["predictions"][0]["path"] == str(path)
    assert "caf\\udce9.png" in json.loads(refused)["error"]["message"]
    assert [line[:7] for line in done.stderr.splitlines()][:1] == ["graft: "]  # of the third alone
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
