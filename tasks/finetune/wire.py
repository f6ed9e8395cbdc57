"""How a training process tells the process that started it what goes on."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from pydantic import BaseModel

from tasks.finetune.progress import EpochRecord, StepProgress, Watcher


class Address(BaseModel):
    """Where the process that started the others listens; on this machine alone."""

    host: str
    port: int
    key: str


class Sender(logging.Handler):
    """A watcher and a log handler that pass on what they are told."""

    def __init__(self, address: Address) -> None:
        super().__init__(logging.INFO)
        target = (address.host, address.port)
        self._wire = Client(target, authkey=bytes.fromhex(address.key))

    def step(self, progress: StepProgress) -> None:
        """Pass a step on."""
        self._wire.send(("step", progress))

    def epoch(self, record: EpochRecord) -> None:
        """Pass an epoch on."""
        self._wire.send(("epoch", record))

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a log line on."""
        self._wire.send(("log", (record.name, record.levelno, record.getMessage())))

    def close(self) -> None:
        """Hang up, so that the listener knows that this was all."""
        self._wire.close()
        super().close()


@contextmanager
def relayed(watcher: Watcher) -> Iterator[Address]:
    """Listen for one sender and pass on what it says to ``watcher`` and to the log."""
    key = secrets.token_hex(16)
    with Listener(("localhost", 0), authkey=bytes.fromhex(key)) as listener:
        host, port = listener.address
        hearing = threading.Thread(target=_hear, args=(listener, watcher), daemon=True)
        hearing.start()
        try:
            yield Address(host=host, port=port, key=key)
        finally:
            hearing.join(timeout=5)


def _hear(listener: Listener, watcher: Watcher) -> None:
    try:
        with listener.accept() as wire:
            _pass_on(wire, watcher)
    except (EOFError, OSError):  # the sender is gone, or never came: whoever started it says why
        return


def _pass_on(wire: Connection[Any, Any], watcher: Watcher) -> None:
    while True:
        kind, what = wire.recv()
        if kind == "step":
            watcher.step(what)
        elif kind == "epoch":
            watcher.epoch(what)
        else:
            name, level, text = what
            logging.getLogger(name).log(level, "%s", text)
