"""How a training process tells the process that started it what goes on."""

from __future__ import annotations

import logging
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from typing import Any

from pydantic import BaseModel

from tasks.finetune.progress import EpochRecord, StepProgress, Watcher

_BACKLOG = 16  # connections that wait until they are accepted; of one, the next has to try again
_LAST_WORDS_SECONDS = 5.0
_STRANGERS_SECONDS = (
    20  # that who has not shown the key may say nothing; a sender takes milliseconds
)
_FULL_SECONDS = 0.1  # until a connection is taken again, where the process may open no more


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


class _Hearing:
    """What is known of the one sender, whose words a thread passes on."""

    def __init__(self, watcher: Watcher, key: bytes) -> None:
        self.watcher, self.key = watcher, key
        self.began, self.ended = threading.Event(), threading.Event()


@contextmanager
def relayed(watcher: Watcher) -> Iterator[Address]:
    """Listen for one sender and pass on what it says to ``watcher`` and to the log.

    Who connects without the key is not heard, and keeps nobody out: the connection is closed after
    a while.
    """
    hearing = _Hearing(watcher, secrets.token_bytes(16))
    with Listener(("localhost", 0), backlog=_BACKLOG) as listener:
        host, port = listener.address
        accepting = threading.Thread(target=_accept, args=(listener, hearing), daemon=True)
        accepting.start()
        try:
            yield Address(host=host, port=port, key=hearing.key.hex())
        finally:
            if hearing.began.is_set():  # its last words may be on the way
                hearing.ended.wait(_LAST_WORDS_SECONDS)
            hearing.ended.set()
            with suppress(OSError):  # ends the thread's waiting
                socket.create_connection((host, port), timeout=1).close()
                accepting.join(timeout=1)


def _accept(listener: Listener, hearing: _Hearing) -> None:
    """Hear each who connects in a thread of its own: one that says nothing is waited for."""
    while True:
        try:
            wire = listener.accept()
        except OSError:  # too many open files, or the block has ended
            if hearing.ended.wait(_FULL_SECONDS):
                return
            continue
        if hearing.ended.is_set():
            wire.close()
            return
        threading.Thread(target=_hear, args=(wire, hearing), daemon=True).start()


def _hear(wire: Connection[Any, Any], hearing: _Hearing) -> None:
    with wire:
        try:
            _wait_at_most(wire, _STRANGERS_SECONDS)
            deliver_challenge(wire, hearing.key)  # as Listener does, which would wait for each
            hearing.began.set()
            answer_challenge(wire, hearing.key)
            _wait_at_most(wire, 0)
        except (AuthenticationError, EOFError, OSError):  # anybody, who may be gone again
            return
        try:
            _pass_on(wire, hearing.watcher)
        except (EOFError, OSError):  # the sender is gone: whoever started it says why
            return
        finally:
            hearing.ended.set()


def _wait_at_most(wire: Connection[Any, Any], seconds: int) -> None:
    """Have reading fail after so many seconds of silence; 0 for as long as it takes."""
    line = socket.socket(fileno=wire.fileno())
    try:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))
    finally:
        line.detach()


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
