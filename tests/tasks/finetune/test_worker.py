"""When a training process tells of a problem, and what it ends for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch.distributed as dist

from tasks.errors import ResourceError, TrainingError
from tasks.finetune import worker
from tasks.finetune.meeting import LOOPBACK, Meeting, Place, Session, open_store
from tasks.finetune.trouble import as_error, as_words, read_words, told_by
from tasks.finetune.worker import FAULT, PROBLEM, Job, _Look, work


@pytest.fixture
def job(make_job, monkeypatch) -> Job:
    """Return the job of a training of one process, which is this one."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    for name, value in (names | {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": port}).items():
        monkeypatch.setenv(name, str(value))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that what the process sets is undone
        monkeypatch.delenv(name)
    return make_job({"device": "cpu"})


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        (ResourceError("The disk is full."), PROBLEM, "The disk is full."),
        (KeyError("a\nb"), FAULT, "Training process 0 failed: KeyError: 'a\\nb'\nTrain with"),
    ],
)
def test_a_problem_is_told_before_the_others_are_left(job, error, name, words, monkeypatch):
    told = []

    def leave() -> None:  # which may take for ever
        told.append(read_words(job.scratch / name))
        destroy()

    def fail(*_: object) -> None:
        raise error

    destroy = dist.destroy_process_group
    monkeypatch.setattr(dist, "destroy_process_group", leave)
    monkeypatch.setattr("tasks.finetune.train.finetune", fail)
    with pytest.raises(type(error)):
        work(job.model_dump_json())
    assert [told_by(found) for found in told] == [0]
    assert str(as_error(told[0])).startswith(words)
    loopback = os.environ["GLOO_SOCKET_IFNAME"]
    assert loopback in {interface for _, interface in socket.if_nameindex()}
    assert os.environ["NCCL_SOCKET_IFNAME"] == f"={loopback}"


def test_a_process_that_cannot_leave_ends():
    code = """import time
from tasks.finetune.worker import _ended_after
with _ended_after(60):
    print("left", flush=True)
with _ended_after(0.1):
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (1, "left\n", "")


def test_a_fault_that_nobody_gives_a_reason_for_ends_the_others(monkeypatch):
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    place = Place(host=LOOPBACK, port=port, nodes=2, patience=9, silence=5)
    meeting, session = (
        Meeting(place, open_store(place, listener)),
        Session(place=place, number=0, node=0),
    )
    now = [100.0]
    monkeypatch.setattr(worker, "monotonic", lambda: now[0])
    look = _Look(session)
    assert look(meeting) is None
    meeting.say(session.key(FAULT), as_words(TrainingError("process 1 failed")))
    for now[0] in (200.0, 206.9):  # a reason may yet come: that a node is gone
        assert look(meeting) is None
    now[0] = 207.1
    assert str(look(meeting)) == "process 1 failed"
    meeting.say(session.key(PROBLEM), as_words(ResourceError("no memory")))
    assert str(look(meeting)) == "no memory"
