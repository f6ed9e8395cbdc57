"""Whether a process is still the one that was started: numbers are given to others later."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_ENDED = ("Z", "X")  # states of proc_pid_stat(5): ended, and kept for the parent to ask about
_SLACK = 2.0  # seconds; the clock that a start is told by elsewhere is set now and then


def started(pid: int) -> str | None:
    """Return when a process was started, as a word for ``still_runs``; None where it has ended.

    On Linux in clock ticks since the machine's own start (field 22 of proc_pid_stat(5)), which
    setting the clock does not change: so it means nothing after another start of the machine. On
    other systems in seconds of the wall clock, as psutil has them.
    """
    if not (_PROC / "self" / "stat").exists():
        return _by_the_clock(pid)
    try:
        # the name, in parentheses, may hold any sign
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "hidden:0" if _exists(pid) else None
    return None if fields[0] in _ENDED else f"ticks:{fields[19]}"


def still_runs(pid: int, start: str) -> bool:
    """Say whether the process ``pid`` that ``started`` named ``start`` has not ended.

    True also where that cannot be told: a start that another version of graft wrote down, or a
    process of another user that this system hides.
    """
    now = started(pid)
    if now is None:
        return False
    (kind, _, value), (before, _, then) = now.partition(":"), start.partition(":")
    if kind != before:
        return True
    return abs(float(value) - float(then)) <= (_SLACK if kind == "clock" else 0.0)


def _by_the_clock(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return None if ended else f"clock:{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return "hidden:0"


def _exists(pid: int) -> bool:
    """Say whether there is such a process, be it hidden: Linux can (hidepid of proc(5))."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
