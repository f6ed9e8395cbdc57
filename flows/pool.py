"""Processes that work is done in: they share neither torch's threads nor its random numbers.

Prefect's own ProcessPoolTaskRunner would do, but that it passes what its processes report on from a
thread that does not know the settings of ``flows.server.using``: in 3.8 the report goes to another
server, which it starts for it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import NoReturn, TypeVar

from rich.console import Console

from flows.console import OURS, Lines
from tasks.errors import ResourceError, Terminated

Given = TypeVar("Given")
Result = TypeVar("Result")


class Pool:
    """``size`` processes at most, each started when there is work for it, none after its end."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._executor: ProcessPoolExecutor | None = None
        self._ended = False

    def carry_out(self, do: Callable[[Given], Result], given: Given) -> Result:
        """Return ``do(given)`` from one of the processes; ``do`` is a function of a module.

        Raises what that raises, and ``ResourceError`` when the process is killed: the others of the
        pool end with it then, and the next piece of work gets new ones. Raises it also when the
        pool has ended: the thread that asks may have begun before Ctrl-C and come here after it.
        """
        try:
            with self._lock:  # also while the process is started, or ``stop`` would not see it
                executor = self._ready()
                future = executor.submit(_carry_out, do, given)
            return future.result()
        except (BrokenProcessPool, CancelledError) as error:
            with self._lock:
                if self._ended:
                    raise _stopped() from error
                if self._executor is executor:  # else another piece of work has new ones already
                    self._executor = None
            raise ResourceError(
                "Its process, or one beside it, was killed; memory may have run out.\n"
                "Start again, with a smaller parallel."
            ) from error

    def _ready(self) -> ProcessPoolExecutor:
        if self._ended:
            raise _stopped()
        if self._executor is None:
            context = multiprocessing.get_context("spawn")  # threads and CUDA do not fork
            self._executor = ProcessPoolExecutor(self._size, context, _begin_process)
        return self._executor

    def stop(self) -> None:
        """End the processes now; what they do closes its runs in MLflow first."""
        with self._lock:
            self._ended = True
        for child in multiprocessing.active_children():
            child.terminate()
        self.close()

    def close(self) -> None:
        """End the processes, which have nothing left to do."""
        with self._lock:
            self._ended = True
            if self._executor is not None:
                self._executor.shutdown(cancel_futures=True)
                self._executor = None


@contextmanager
def open_pool(size: int) -> Iterator[Pool]:
    """Give a pool that ends with the block, at once when that ends with an error."""
    pool = Pool(size)
    try:
        yield pool
    except BaseException:
        pool.stop()
        raise
    pool.close()


def _stopped() -> ResourceError:
    return ResourceError("It was stopped with the command.\nStart the command again to do it.")


def _begin_process() -> None:
    """Let warnings be seen, and make the process end with its parent: it would wait for ever.

    Ctrl-C reaches the whole group of processes; the parent passes it on as SIGTERM, once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if not sys.warnoptions:  # as flows.cli
        warnings.simplefilter("ignore")
    for name in OURS:
        logging.getLogger(name).addHandler(Lines(Console(stderr=True)))


def _carry_out(do: Callable[[Given], Result], given: Given) -> Result:
    """Do the work; SIGTERM is an exception meanwhile, so that its run is closed, then the end.

    A process that went back to its pool instead would wait for ever: with a process that ended in
    its sleep the pool is broken.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return do(given)
    finally:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
            os._exit(128 + signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the closing
    raise Terminated(number)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(128 + signal.SIGHUP)
