"""What a training process says is heard, whoever else connects."""

from __future__ import annotations

import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tasks.finetune import wire
from tasks.finetune.progress import StepProgress
from tasks.finetune.wire import Sender, relayed


class Recorder:
    def __init__(self) -> None:
        self.steps: list[StepProgress] = []

    def step(self, progress: StepProgress) -> None:
        self.steps.append(progress)

    def epoch(self, record: object) -> None:
        raise AssertionError(record)


def step(number: int) -> StepProgress:
    return StepProgress(1, 1, number, 100, 10.0, 1.0)


def test_strangers_keep_nobody_from_being_heard(caplog):
    caplog.set_level(logging.INFO)
    watcher = Recorder()
    before = threading.active_count()
    with relayed(watcher) as address:
        place = (address.host, address.port)
        silent = socket.create_connection(place)  # for as long as all of it takes
        socket.create_connection(place).close()
        with socket.create_connection(place) as loud:
            loud.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)
        with socket.create_connection(place) as wrong:
            wrong.sendall(b"\0\0\0\x20" + bytes(32))  # an answer, by another key
            wrong.settimeout(5)
            while wrong.recv(4096):
                pass
        sender = Sender(address)
        sent = [step(number) for number in range(100)]
        for progress in sent:
            sender.step(progress)
        sender.emit(logging.LogRecord("tasks.x", logging.INFO, "", 0, "said", (), None))
        sender.close()
    assert watcher.steps == sent
    assert "said" in caplog.messages
    silent.close()
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.02)
    assert threading.active_count() == before


def test_nobody_is_waited_for_who_never_came():
    began = time.monotonic()
    with relayed(Recorder()):
        pass
    assert time.monotonic() - began < 2


def for_ever(do: Callable[[], None]) -> None:
    while True:
        do()


def test_who_shows_no_key_is_cut_off_and_the_sender_is_not(monkeypatch):
    monkeypatch.setattr(wire, "_STRANGERS_SECONDS", 1)
    watcher = Recorder()
    with relayed(watcher) as address:
        sender = Sender(address)
        with socket.create_connection((address.host, address.port)) as silent:
            silent.sendall(b"\0")  # of four that say how long an answer is
            silent.settimeout(10)
            while silent.recv(4096):
                pass
        sender.step(step(1))  # after a longer silence than a stranger's
        sender.close()
    assert watcher.steps == [step(1)]


def test_a_process_that_may_open_no_more_files_hears_who_comes_later():
    watcher, before = Recorder(), resource.getrlimit(resource.RLIMIT_NOFILE)
    with relayed(watcher) as address, ExitStack() as strangers:

        def come() -> None:
            line = socket.create_connection((address.host, address.port))
            strangers.enter_context(line)

        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, before[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                for_ever(come)
            time.sleep(0.2)  # while nobody can be taken
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        sender = Sender(address)
        sender.step(step(1))
        sender.close()
    assert watcher.steps == [step(1)]
