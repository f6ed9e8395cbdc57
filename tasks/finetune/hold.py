"""Ctrl-C, SIGTERM and the end of a task's time, kept waiting until training can be gone on from.

All three are exceptions that come between any two instructions. In the middle of an optimiser step
they leave what no training can go on from as if nothing had been. In the middle of SQLAlchemy's
work for MLflow they become an error of its own, which ends no training; and where rich has just
printed a line, it prints no further one.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType, ModuleType
from typing import Any

GIVES_UP = 8.0  # s until a signal is let through wherever training is: the rest is for leaving
_ONE_STOP = 1.0  # s in which what comes again is the same stop: uv passes on what it got as well
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

Handler = Callable[[int, FrameType | None], Any] | int


class _LetThroughError(KeyboardInterrupt):
    """What was kept came where nothing is kept; never leaves this file, but for an odd handler."""


class Hold:
    """Keeps the first signal of its ``with`` block for ``let_go``; a later one is let through.

    So is the first after ``GIVES_UP``. Signals that the process ignores stay ignored, and an alarm
    that is not Prefect's is left alone. Outside of the main thread, which alone may change what
    signals do, nothing is kept.
    """

    def __init__(self) -> None:
        self.asked: int | None = None  # the number of the signal that is kept
        self._come: Handler = self._on_signal  # one object, which Prefect compares
        self._before: dict[int, Handler] = {}
        self._named: list[tuple[ModuleType, str, Handler]] = []
        # a queue that a signal's handler may use, as it may not start a thread: that takes a lock
        self._told = SimpleQueue[int | None]()
        self._since = 0.0
        self._open = False

    def __enter__(self) -> Hold:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                kept = number != signal.SIGALRM or _is_of_prefect(before)
                if kept and before is not None and before != signal.SIG_IGN:
                    self._before[number] = before
                    self._stand_in_for(before)
                    signal.signal(number, self._come)
            threading.Thread(target=self._watch, name="hold", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._told.put(None)
        self._restore()
        if kind is None:  # or the block ends already
            self.let_go()

    def let_go(self) -> None:
        """Do what the signal that is kept would have done, which most often raises."""
        number, self.asked = self.asked, None
        if number is not None:
            self._restore()
            signal.raise_signal(number)

    @contextmanager
    def let_through(self, save: Callable[[], None]) -> Iterator[None]:
        """Keep nothing in this block, in which no weight changes; ``save`` first, out of it."""
        try:
            self._open = True
            if self.asked is not None:
                raise _LetThroughError
            yield
            self._open = False
        except _LetThroughError:
            self._open = False
            save()
            self.let_go()
            raise
        finally:
            self._open = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._since = number, now
            self._told.put(number)
        elif now - self._since > _ONE_STOP:
            self.asked = number
            self.let_go()
        if self._open:
            self._open = False  # once: what follows takes its time
            raise _LetThroughError

    def _watch(self) -> None:
        """Send a signal once more that was kept for too long: to the main thread, be it waiting."""
        number = self._told.get()
        if number is None:
            return
        try:
            self._told.get(timeout=GIVES_UP)
        except Empty:
            main = threading.main_thread().ident
            if self._before and main is not None:
                signal.pthread_kill(main, number)

    def _restore(self) -> None:
        while self._named:
            module, name, handler = self._named.pop()
            setattr(module, name, handler)
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _stand_in_for(self, handler: Handler) -> None:
        """Be found by Prefect where it looks for its own handler.

        It acknowledges that a run is cancelled while SIGTERM's handler is the function that it
        knows by its name; without that, a cancelled run is a crashed one for a moment.
        """
        module = sys.modules.get(str(getattr(handler, "__module__", "")))
        name = str(getattr(handler, "__name__", ""))
        if module is not None and _is_of_prefect(handler) and vars(module).get(name) is handler:
            self._named.append((module, name, handler))
            setattr(module, name, self._come)


def _is_of_prefect(handler: object) -> bool:
    return str(getattr(handler, "__module__", "")).partition(".")[0] == "prefect"
