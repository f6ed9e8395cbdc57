"""What a training process says is heard, whoever else connects."""

from __future__ import annotations

import logging
import socket
import threading
import time

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
