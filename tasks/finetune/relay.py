"""Signals that one process passes on to the command that it runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | None

_TOLD = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Relay:
    """Passes SIGTERM, SIGHUP and SIGINT on to the command, from the ``with`` block's main thread.

    None is lost: what comes while the command is being started, it gets then. What comes after its
    end, or where it could not be started, has only ``hurried`` to change. A signal that is ignored,
    as by nohup, stays so for both.
    """

    def __init__(self) -> None:
        self.hurried = False  # somebody wanted the end after the command's own
        self._starting = self._over = False
        self._running: subprocess.Popen[bytes] | None = None
        self._waiting: list[int] = []
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Relay:
        for number in _TOLD:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._pass_on)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """Run the command to its end; return its exit code, 128 and the signal that killed it.

        Raises ``OSError`` where there is no such program.
        """
        try:
            self._starting = not _has_child()
            running = subprocess.Popen(command, env=environment)  # noqa: S603 - the user's own command
            self._running = running
            for number in self._waiting:
                running.send_signal(number)
            code = running.wait()
        finally:
            self._over = True
            self.hurried |= self._running is None and bool(self._waiting)
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        running = self._running
        if self._over or (running is not None and running.returncode is not None):
            self.hurried = True
        elif number == signal.SIGINT and self._is_there() and _typed():
            return  # the terminal has told the command itself
        elif running is None:
            self._waiting.append(number)
        else:
            running.send_signal(number)

    def _is_there(self) -> bool:
        """Say whether the command is a process, maybe one that ``Popen`` has yet to return."""
        return self._running is not None or (self._starting and _has_child())


def _has_child() -> bool:
    """Say whether this process has a child, and leave it to whoever waits for its end."""
    if not hasattr(os, "waitid"):  # which a Mac has from Python 3.13 on
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _typed() -> bool:
    """Say whether Ctrl-C would come from this process's terminal, which tells the command itself.

    Without one, as in most containers, SIGINT was sent to this process.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
