"""Whether a process is still the same, asked of real ones."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from tasks import processes
from tasks.processes import started, still_runs


def test_a_start_is_what_psutil_says_in_ticks():
    if not sys.platform.startswith("linux"):
        pytest.skip("ticks are Linux's")
    process = psutil.Process()
    kind, _, ticks = str(started(process.pid)).partition(":")
    since_boot = process.create_time() - psutil.boot_time()
    assert kind == "ticks"
    assert int(ticks) / os.sysconf("SC_CLK_TCK") == pytest.approx(since_boot, abs=0.02)


def test_setting_the_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    before = str(started(os.getpid()))
    # what psutil adds to each start, and what a set clock moves
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert started(os.getpid()) == before


@pytest.mark.parametrize("by_the_clock", [False, True])
def test_a_process_runs_until_it_ends_waited_for_or_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path, by_the_clock: bool
):
    if by_the_clock:
        monkeypatch.setattr(processes, "_PROC", tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = str(started(process.pid))
        assert start.startswith("clock:") is (by_the_clock or sys.platform != "linux")
        assert still_runs(process.pid, start)
        kind, _, value = start.partition(":")
        assert not still_runs(process.pid, f"{kind}:{float(value) - 100}")
        os.kill(process.pid, 9)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert not still_runs(process.pid, start)
    assert started(process.pid) is None


def test_what_another_version_wrote_down_is_not_taken_for_an_end():
    assert still_runs(os.getpid(), "1764331000.25")
