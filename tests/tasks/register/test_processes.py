"""Whether a process is gone, asked of real ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tasks.register.processes import FLOW_RUN, FLOW_RUN_TAG, PROCESS_TAG, is_gone, process_tags

SAY = "from tasks.register.processes import *; print(process_tags()[PROCESS_TAG], flush=True); "


def test_a_process_is_gone_when_it_has_ended():
    code = f"{SAY} input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout is not None
        tag = process.stdout.readline().strip()
        assert not is_gone(tag)
        process.kill()
        process.wait()
        assert is_gone(tag)


def test_a_number_that_another_process_has_now_is_not_the_one_of_before():
    place, number, started = process_tags()[PROCESS_TAG].rsplit(" ", 2)
    assert int(number) == os.getpid()
    assert not is_gone(f"{place} {number} {started}")
    assert is_gone(f"{place} {number} {_earlier(started)}")


def test_nothing_is_known_of_another_machine():
    _, number, started = process_tags()[PROCESS_TAG].rsplit(" ", 2)
    assert not is_gone(f"elsewhere boot pid:[1] {number} {_earlier(started)}")


def _earlier(started: str) -> str:
    kind, _, value = started.partition(":")
    return f"{kind}:{float(value) - 100}"


def test_the_flow_run_is_named_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(FLOW_RUN, raising=False)
    assert FLOW_RUN_TAG not in process_tags()
    monkeypatch.setenv(FLOW_RUN, "a-flow-run")
    assert process_tags()[FLOW_RUN_TAG] == "a-flow-run"
