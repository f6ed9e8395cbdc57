"""When a training process tells of a problem, and what it ends for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from tasks.errors import ConfigError, GraftError, ResourceError, TrainingError
from tasks.finetune import worker
from tasks.finetune.meeting import END, LOOPBACK, Meeting, Session
from tasks.finetune.roll import host_of, left_of
from tasks.finetune.trouble import as_error, as_words, read_words, told_by
from tasks.finetune.worker import FAULT, OVER, PROBLEM, Job, _Look, work
from tests.tasks.finetune.conftest import store_here


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


@pytest.fixture
def meeting() -> Meeting:
    """Return a line to the store of two nodes, which is in this process."""
    return Meeting(*store_here(2, silence=5))


def test_a_fault_that_nobody_gives_a_reason_for_ends_the_others(meeting, monkeypatch):
    session = Session(place=meeting.place, number=0, node=0)
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


@pytest.mark.parametrize("key", [OVER, END])
def test_the_first_nodes_wish_ends_the_others(key, meeting):
    session = Session(place=meeting.place, number=0, node=1)
    look = _Look(session)
    assert look(meeting) is None
    meeting.say(key if key == END else session.key(key), "yes")
    assert str(look(meeting)) == "The first node has ended the training."


def test_a_node_that_left_ends_the_others_and_is_told_them(meeting):
    session = Session(place=meeting.place, number=0, node=0)
    meeting.say(host_of(1), "far")
    meeting.say(left_of(1), "it had no disk")
    missing = _Look(session)(meeting)
    assert isinstance(missing, ResourceError)
    assert str(missing).startswith("Node 1 (far) left: it had no disk.\n")
    told = meeting.hear(session.key(PROBLEM))
    assert (type(as_error(told)), str(as_error(told))) == (ResourceError, str(missing))


def test_a_process_whose_parent_is_gone_ends(meeting, monkeypatch):
    look = _Look(Session(place=meeting.place, number=0, node=1))
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert f"The first node, at {meeting.place.address}, does not" in str(look(meeting))


@pytest.mark.parametrize(
    ("error", "node", "named"),
    [
        (ResourceError("no memory"), 1, True),
        (ResourceError("no memory"), 0, False),
        (TrainingError("it diverged"), 1, False),
        (ConfigError("a wrong size"), 1, False),
    ],
)
def test_the_node_is_named_where_its_machine_may_be_at_fault(
    error: GraftError, node, named, meeting, make_job, monkeypatch
):
    monkeypatch.setenv("RANK", "3")
    session = Session(place=meeting.place, number=0, node=node)
    job = make_job(scratch=None, session=session)
    with pytest.raises(type(error)), worker._problem_told(job):
        raise error
    words = meeting.hear(session.key(PROBLEM))
    assert (type(as_error(words)), told_by(words)) == (type(error), 3)
    before = f"Node {node} ({socket.gethostname()}): " if named else ""
    assert str(as_error(words)) == f"{before}{error}"


def test_each_process_takes_a_gpu_of_its_own_and_nccl(job, monkeypatch):
    """What torch is asked for: there is no GPU."""
    asked = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(worker, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(
        dist, "init_process_group", lambda kind, device_id, **_: asked.append((kind, device_id))
    )
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: asked.append("left"))
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    threads = torch.get_num_threads()
    with worker._together(job):
        asked.append("work")
    gpu = torch.device("cuda", 1)
    assert asked == [gpu, ("nccl", gpu), "work", "left"]
    assert torch.get_num_threads() == threads  # shared on a CPU alone
