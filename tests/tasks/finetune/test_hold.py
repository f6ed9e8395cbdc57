"""Signals that wait: real ones, sent to this process."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tasks.finetune import hold as module
from tasks.finetune.hold import Hold


def test_a_signal_waits_until_it_is_let_go():
    before = signal.getsignal(signal.SIGINT)
    steps = []
    with pytest.raises(KeyboardInterrupt), Hold() as hold:
        for step in range(3):
            os.kill(os.getpid(), signal.SIGINT)  # uv passes on what the shell has sent it as well
            steps.append(step)
        assert hold.asked == signal.SIGINT
        hold.let_go()
    assert steps == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is before


def test_who_asks_again_need_not_wait(monkeypatch):
    monkeypatch.setattr(module, "_ONE_STOP", 0.0)
    with pytest.raises(KeyboardInterrupt), Hold() as hold:
        os.kill(os.getpid(), signal.SIGTERM)
        assert hold.asked == signal.SIGTERM
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it was kept")


def test_a_step_that_takes_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "GIVES_UP", 0.2)
    monkeypatch.setattr(module, "_ONE_STOP", 0.1)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Hold():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    assert 0.2 <= time.monotonic() - start < 10


def test_where_nothing_changes_a_signal_saves_and_passes(monkeypatch):
    saved = []
    with pytest.raises(KeyboardInterrupt), Hold() as hold:
        with hold.let_through(lambda: saved.append("too soon")):
            pass
        with hold.let_through(lambda: saved.append("in time")):
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("it was kept")
    assert saved == ["in time"]
    with pytest.raises(KeyboardInterrupt), Hold() as hold:
        os.kill(os.getpid(), signal.SIGINT)  # just before
        with hold.let_through(lambda: saved.append("before")):
            pytest.fail("it was kept")
    assert saved == ["in time", "before"]


def test_what_is_ignored_stays_ignored_and_other_threads_keep_nothing():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job in the background
    try:
        with Hold() as hold:
            os.kill(os.getpid(), signal.SIGINT)
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

    own = engine._prefect_sigterm_handler
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect passes it on
    try:
        with pytest.raises(TerminationSignal), engine.capture_sigterm(), Hold() as hold:
            assert engine.can_ack_control_intent()
            os.kill(os.getpid(), signal.SIGTERM)
            hold.let_go()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert engine._prefect_sigterm_handler is own
