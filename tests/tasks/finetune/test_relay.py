"""Signals reach the command that a process runs once each, whenever and however they are sent."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

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

# a signal that comes while Popen works, before or after the command's process is there
MEANWHILE = f"""
import os, subprocess, sys, time
from tasks.finetune import relay

heard = []


class Hears(relay.Relay):
    def _pass_on(self, *given):
        super()._pass_on(*given)
        heard.append(1)


class Slow(subprocess.Popen):
    def __init__(self, *given, **named):
        if sys.argv[1] == "after":
            super().__init__(*given, **named)
        else:
            print("ready", flush=True)
        while not heard:
            time.sleep(0.01)
        if sys.argv[1] == "before":
            super().__init__(*given, **named)


subprocess.Popen = Slow
command = [sys.executable, "-c", {COUNT!r}] if sys.argv[1] == "after" else ["sleep", "60"]
with Hears() as passes_on:
    sys.exit(passes_on.run(command, dict(os.environ)))
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


def typed_to(*arguments: str) -> tuple[int, bytes]:
    """Run Python in a terminal, where Ctrl-C is typed once it is ready; return its exit code.

    And what it said.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, *arguments])
    said, typed = b"", False
    with suppress(OSError):  # so ends a terminal that nobody has open any more
        while part := os.read(terminal, 100):
            said += part
            if b"ready" in said and not typed:
                typed = os.write(terminal, b"\x03") == 1
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def test_ctrl_c_in_a_terminal_reaches_the_command_once():
    for arguments in (("-c", RUN), ("-c", MEANWHILE, "after")):
        code, said = typed_to(*arguments)
        assert (code, b"came 1\r\n" in said) == (0, True), said


def test_ctrl_c_that_comes_before_the_command_reaches_it_too():
    assert typed_to("-c", MEANWHILE, "before")[0] == 128 + signal.SIGINT


def test_where_the_command_cannot_be_run_nobody_is_waited_for(relay: Relay):
    with pytest.raises(FileNotFoundError):
        relay.run(["/no/such/command"], {})
    assert not relay.hurried
    os.kill(os.getpid(), signal.SIGTERM)
    assert relay.hurried


def test_who_wanted_the_end_of_a_command_that_cannot_be_run_is_heard(relay: Relay):
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(FileNotFoundError):
        relay.run(["/no/such/command"], {})
    assert relay.hurried
