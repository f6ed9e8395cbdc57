"""Signals reach the command that a process runs once each, whenever and however they are sent."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tasks.finetune.relay import Relay

COUNT = """
import signal, time
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
print("ready", flush=True)
deadline = time.monotonic() + 20
while not came and time.monotonic() < deadline:
    time.sleep(0.05)
time.sleep(0.4)
print("came", len(came), flush=True)
"""
RUN = f"""
import os, sys
from tasks.finetune.relay import Relay
with Relay() as relay:
    sys.exit(relay.run([sys.executable, "-c", {COUNT!r}], dict(os.environ)))
"""


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_comes_before_the_command_has_begun_reaches_it(relay: Relay, number: int):
    os.kill(os.getpid(), number)
    assert relay.run(["sleep", "60"], dict(os.environ)) == 128 + number


def test_what_comes_after_its_end_changes_nothing_but_the_wait(relay: Relay):
    assert relay.run(["false"], dict(os.environ)) == 1
    assert not relay.hurried
    os.kill(os.getpid(), signal.SIGTERM)
    assert relay.hurried


def test_handlers_come_back_and_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        with Relay() as relay:
            ends = "kill -HUP $$ $PPID; exit 3"
            assert relay.run(["sh", "-c", ends], dict(os.environ)) == 3
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == others


def test_sigint_to_the_first_process_alone_is_passed_on():
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "came 1\n"
    assert process.returncode == 0


def test_ctrl_c_in_a_terminal_reaches_the_command_once():
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", RUN])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 100)
    os.write(terminal, b"\x03")
    while b"came" not in said or not said.endswith(b"\n"):
        said += os.read(terminal, 100)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    assert b"came 1\r\n" in said
