"""How the launcher's agents meet and part."""

from __future__ import annotations

import signal
import threading
import time

import psutil
import pytest
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.utils.store import barrier

from tasks.errors import ResourceError, Terminated, TrainingError
from tasks.finetune import launch as module
from tasks.finetune.launch import _explained, _Settled, _signals_kept, launch
from tasks.finetune.meeting import LOOPBACK, Meeting, Place, Session
from tasks.finetune.roll import left_of
from tasks.finetune.trouble import as_words, write_first
from tasks.finetune.worker import DONE, FAULT, PROBLEM
from tests.tasks.finetune.conftest import store_here


def handler(session: Session | None) -> _Settled:
    return _Settled(RendezvousParameters("graft", "", "1", 1, 2, session=session))


def test_one_machine_has_a_store_on_its_loopback_address_alone():
    info = handler(None).next_rendezvous()
    port = info.bootstrap_store_info.master_port
    found = {
        line.laddr.ip
        for line in psutil.Process().net_connections("inet")
        if line.status == psutil.CONN_LISTEN and line.laddr.port == port
    }
    assert found == {LOOPBACK}
    assert (info.rank, info.world_size) == (0, 1)
    info.store.set("a", "b")
    assert info.store.get("a") == b"b"


def test_what_ended_the_processes_of_one_machine(make_job, tmp_path):
    job = make_job()

    def said(exit_code: int) -> str:
        return str(_explained(job, 1, ProcessFailure(1, 7, exit_code, "/no/such/file")))

    assert "Training process 1 ended by itself (exit code 1)" in said(1)
    write_first(tmp_path / FAULT, as_words(TrainingError("process 0 failed"), 0))
    assert said(1) == "process 0 failed"
    for code in (-6, -9):  # of which the other process saw a lost connection
        assert f"exit code {code}" in said(code)
    (tmp_path / FAULT).unlink()
    write_first(tmp_path / FAULT, as_words(TrainingError("process 1 failed"), 1))
    assert said(-6) == "process 1 failed"  # and aborted as it left
    assert "exit code -9" in said(-9)
    write_first(tmp_path / PROBLEM, as_words(TrainingError("a loss that is no number"), 0))
    assert said(1) == said(-6) == said(-9) == "a loss that is no number"


def test_what_ended_the_processes_of_several_machines(make_job):
    place, store = store_here(2, silence=2)
    meeting = Meeting(place, store)

    def said(number: int, fault: str | None, exit_code: int) -> str:
        session = Session(place=place, number=number, node=1)
        job = make_job(scratch=None, session=session)
        if fault is not None:
            meeting.say(session.key(FAULT), fault)
        return str(_explained(job, 1, ProcessFailure(0, 7, exit_code, "/no/such/file")))

    own, others = (as_words(TrainingError(f"process {n} failed"), n) for n in (1, 0))
    assert said(0, own, -6) == "process 1 failed"
    assert "exit code -9" in said(1, own, -9)
    assert "exit code -6" in said(2, others, -6)
    assert "exit code -6" in said(3, None, -6)
    assert said(4, others, 1) == "process 0 failed"


def test_an_agent_does_not_wait_for_one_that_is_gone():
    place, store = store_here(2, silence=2)
    agents = [
        handler(Session(place=place, number=0, node=node)).next_rendezvous().store
        for node in (0, 1)
    ]
    began = time.monotonic()
    with pytest.raises(dist.DistStoreError):
        barrier(agents[0], 2, "end", barrier_timeout=300)
    assert time.monotonic() - began < 4
    barrier(agents[1], 2, "end", barrier_timeout=300)  # the two share what they wrote
    assert store.num_keys() > 0


def test_the_first_node_gives_the_reason_that_another_wrote_down(make_job):
    place, store = store_here(2, silence=2)
    meeting = Meeting(place, store)

    def said(number: int, **words: str) -> str:
        session = Session(place=place, number=number, node=0)
        for key, value in words.items():
            meeting.say(session.key(key), value)
        meeting.say(session.key(DONE, 1), "yes")
        job = make_job(scratch=None, session=session)
        return str(_explained(job, 0, ProcessFailure(0, 7, 1, "/no/such/file")))

    told = as_words(TrainingError("process 1 failed"), 1)
    assert said(0, **{PROBLEM: told}) == "process 1 failed"
    assert said(1, **{FAULT: told}) == "process 1 failed"
    assert said(2).startswith("Training process 0 ended by itself (exit code 1)")
    meeting.say(left_of(1), "it had no disk")
    assert "left: it had no disk." in said(3)


@pytest.mark.parametrize(
    ("met", "several", "error", "words"),
    [
        (SignalException("", signal.SIGINT), False, KeyboardInterrupt, None),
        (SignalException("", signal.SIGTERM), False, Terminated, None),
        (dist.DistStoreError("gone"), False, dist.DistStoreError, "gone"),
        (dist.DistStoreError("gone"), True, ResourceError, "does not answer any more"),
    ],
)
def test_how_the_launcher_was_stopped_is_told(met, several, error, words, make_job, monkeypatch):
    def stopped(*_: object) -> None:
        raise met

    monkeypatch.setattr(module, "elastic_launch", lambda settings, work: stopped)
    place = Place(host="first", port=1, nodes=2, patience=9, silence=2)
    session = Session(place=place, number=0, node=0) if several else None
    with pytest.raises(error, match=words) as caught:
        launch(make_job(session=session))
    if error is Terminated:
        assert caught.value.args == Terminated(signal.SIGTERM).args


def test_handlers_of_signals_come_back_and_a_thread_leaves_them_alone():
    before, failed = signal.getsignal(signal.SIGHUP), []

    def in_a_thread() -> None:
        try:
            with _signals_kept():
                pass
        except BaseException as error:
            failed.append(error)

    try:
        with _signals_kept():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            thread = threading.Thread(target=in_a_thread)
            thread.start()
            thread.join()
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, before)
    assert failed == []


def test_a_rendezvous_is_over_and_nobody_is_waited_for():
    settled = handler(None)
    settled.set_closed()
    assert (settled.is_closed(), settled.num_nodes_waiting(), settled.shutdown()) == (
        False,
        0,
        True,
    )
