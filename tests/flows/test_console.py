"""What a run says as it goes on: a bar on a terminal, whole lines elsewhere."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from flows.console import lines_shown
from flows.printing import fail
from tasks.errors import DataError

EPOCH = """
from flows.console import shown
from tasks.finetune.progress import EpochRecord, StepProgress

with shown() as screen:
    for step in range(1, 5):
        screen.step(StepProgress(10, 10, step, 4, 12345.6, 6000.0))
    screen.epoch(EpochRecord(10, 10, 1.23456, 0.5, 12.3456, 1.0, 0.001, 3.0, 12345.6))
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_on_terminal(code: str, columns: int) -> list[str]:
    """Run Python code whose standard error is a terminal, and return what that was sent."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment) as process:
        os.close(theirs)
        sent = b""
        while piece := _read(ours):
            sent += piece
    os.close(ours)
    assert process.returncode == 0, sent
    return CONTROL.sub("", sent.decode()).splitlines()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO is how Linux says that the other end is closed
        return b""


def test_on_a_terminal_of_80_columns_bar_and_epoch_are_one_line_each():
    lines = run_on_terminal(EPOCH, 80)
    bars = [line for line in lines if "12,346 images/s" in line]
    assert bars
    assert all("epoch 10/10  12,346 images/s  1 h 40 min left" in line for line in bars)
    assert "finetune    epoch 10/10  loss 1.2346  val loss 12.3456  val accuracy 100.00%" in lines
    assert max(map(len, lines)) <= 80


def test_elsewhere_an_epoch_is_one_whole_line():
    done = subprocess.run([sys.executable, "-c", EPOCH], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "finetune    epoch 10/10  loss 1.2346  val loss 12.3456  val accuracy 100.00%  "
        "12,346 images/s  0 s left"
    ]


STEERS = "the class '\x1b]0;pwned\x07\x1b[2J' is empty\r.\nRemove it.\x9b"


def test_no_line_of_the_log_steers_the_terminal():
    said = io.StringIO()
    with lines_shown(Console(file=said, force_terminal=True)):
        logging.getLogger("tasks.download.source").warning(STEERS)
    first, second = said.getvalue().splitlines()
    assert first == r"download    the class '\x1b]0;pwned\x07\x1b[2J' is empty\r."
    assert second == r"Remove it.\x9b"


def test_no_error_steers_the_terminal(capfd: pytest.CaptureFixture[str]):
    assert fail(DataError(STEERS)) == 3
    said = capfd.readouterr().err
    assert said == ("graft: the class '\\x1b]0;pwned\\x07\\x1b[2J' is empty\\r.\nRemove it.\\x9b\n")
