"""Signals that wait: real ones, sent to this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
        time.sleep(10)

    held(steps)
    assert 0.2 <= time.monotonic() - start < 8


def test_how_long_is_waited_is_what_is_documented(repository: Path):
    words = f"that together take more than {module.GIVES_UP:g} s are not waited for"
    assert words in (repository / "docs" / "resuming.md").read_text()


def test_what_was_let_go_is_not_sent_once_more(monkeypatch):
    monkeypatch.setattr(module, "GIVES_UP", 0.05)
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        with Hold() as hold:
            send(signal.SIGTERM)
            assert got == []
            hold.let_go()
            time.sleep(0.2)
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_comes_within_a_second_is_the_same_stop(monkeypatch):
    clock = iter([50.0, 51.0, 51.001])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    kept = []

    def steps(hold: Hold) -> None:
        for _ in range(3):
            send(signal.SIGINT)
            kept.append(hold.asked)

    held(steps)
    assert kept == [signal.SIGINT] * 2


def test_the_thread_that_watches_ends_with_the_block_or_the_process():
    others = set(threading.enumerate())
    with Hold():
        (watch,) = set(threading.enumerate()) - others
        assert (watch.name, watch.daemon) == ("hold", True)
    watch.join(10)
    assert not watch.is_alive()


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


@pytest.mark.parametrize("early", [True, False])
def test_a_stop_that_is_sent_again_does_not_disturb_what_the_first_brought_about(
    early, monkeypatch
):
    monkeypatch.setattr(module, "_ONE_STOP", 600.0)
    done = []

    def save() -> None:
        send(signal.SIGINT)
        done.append("saved")

    def steps(hold: Hold) -> None:
        if early:
            send(signal.SIGINT)
        with hold.let_through(save):
            try:
                send(signal.SIGINT)
            finally:
                send(signal.SIGINT)
                done.append("tidied")

    held(steps)
    assert done == (["saved"] if early else ["tidied", "saved"])


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


got: list[int] = []


def of_this_module(number: int, _: object) -> None:
    got.append(number)


ITSELF = of_this_module


class Called:
    """Has no name of its own."""

    def __call__(self, number: int, _: object) -> None:
        got.append(number)


@pytest.mark.parametrize(
    "handler",
    [of_this_module, Called(), {}.__setitem__],
    ids=["a function", "an object", "of no module"],
)
def test_handlers_of_any_kind_are_stood_in_for_and_put_back(handler):
    got.clear()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with Hold():
            send(signal.SIGTERM)
            assert got == []
            assert signal.getsignal(signal.SIGTERM) is not handler
            assert globals()["of_this_module"] is ITSELF  # of Prefect's alone
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    taken = list(getattr(handler, "__self__", {}))
    assert got + taken == [signal.SIGTERM]


@pytest.mark.usefixtures("own_alarm")
@pytest.mark.parametrize("handler", [of_this_module, {}.__setitem__], ids=["a function", "no name"])
def test_an_alarm_of_others_is_left_alone(handler):
    signal.signal(signal.SIGALRM, handler)
    with Hold():
        assert signal.getsignal(signal.SIGALRM) is handler


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
                time.sleep(0.001)
            done.append("the step")
            hold.let_go()

    with pytest.raises(TimeoutError):
        steps()
    assert done == ["the step"]
