"""Signals that wait: real ones, sent to this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tasks.finetune import hold as module
from tasks.finetune.hold import Hold


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def held(steps: Callable[[Hold], None]) -> None:
    """Do ``steps`` in a hold that Ctrl-C ends."""
    with pytest.raises(KeyboardInterrupt), Hold() as hold:
        steps(hold)


def test_a_signal_waits_until_it_is_let_go():
    before, done = signal.getsignal(signal.SIGINT), []

    def steps(hold: Hold) -> None:
        for step in range(3):
            send(signal.SIGINT)  # again: uv passes on what the shell has sent it as well
            done.append(step)
        assert hold.asked == signal.SIGINT
        hold.let_go()

    held(steps)
    assert done == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_was_not_let_go_comes_at_the_end_of_the_block():
    held(lambda _: send(signal.SIGINT))


def test_who_asks_again_need_not_wait(monkeypatch):
    monkeypatch.setattr(module, "_ONE_STOP", 0.0)

    def steps(hold: Hold) -> None:
        send(signal.SIGTERM)
        assert hold.asked == signal.SIGTERM
        time.sleep(0.01)
        send(signal.SIGINT)
        pytest.fail("it was kept")

    held(steps)


def test_a_step_that_takes_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "GIVES_UP", 0.2)
    monkeypatch.setattr(module, "_ONE_STOP", 0.1)
    start = time.monotonic()

    def steps(_: Hold) -> None:
        send(signal.SIGINT)
        time.sleep(30)

    held(steps)
    assert 0.2 <= time.monotonic() - start < 25


@pytest.mark.parametrize("early", [True, False])
def test_where_nothing_changes_a_signal_saves_and_passes(early):
    saved = []

    def steps(hold: Hold) -> None:
        with hold.let_through(lambda: saved.append("for nothing")):
            pass
        if early:
            send(signal.SIGINT)
        with hold.let_through(lambda: saved.append("in time")):
            assert not early
            send(signal.SIGINT)
            pytest.fail("it was kept")

    held(steps)
    assert saved == ["in time"]


def test_what_is_ignored_stays_ignored_and_other_threads_keep_nothing():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job in the background
    try:
        with Hold() as hold:
            send(signal.SIGINT)
            assert hold.asked is None
            hold.let_go()
    finally:
        signal.signal(signal.SIGINT, before)
    there: list[object] = []

    def elsewhere() -> None:
        with Hold():
            there.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert there == [before]


def test_prefect_can_still_tell_a_cancelled_run_from_a_crashed_one():
    """Its own function is asked: it acknowledges a cancellation by its handler of SIGTERM alone."""
    from prefect.exceptions import TerminationSignal
    from prefect.utilities import engine

    def steps() -> None:
        with engine.capture_sigterm(), Hold() as hold:
            assert engine.can_ack_control_intent()
            send(signal.SIGTERM)
            hold.let_go()

    own = engine._prefect_sigterm_handler
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect passes it on
    try:
        with pytest.raises(TerminationSignal):
            steps()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert engine._prefect_sigterm_handler is own


@pytest.mark.usefixtures("own_alarm")
def test_a_task_out_of_time_ends_at_a_step_as_well():
    from prefect.utilities.timeout import timeout

    done = []

    def steps() -> None:
        with timeout(3600), Hold() as hold:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while hold.asked is None:
                done.append(time.sleep(0.001))
            hold.let_go()

    with pytest.raises(TimeoutError):
        steps()
    assert done
