"""What each of several training processes does."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic

import torch
import torch.distributed as dist
from pydantic import BaseModel

from tasks.config import RunConfig
from tasks.errors import ConfigError, GraftError, TrainingError
from tasks.finetune.device import pick_device
from tasks.finetune.meeting import END, Meeting, Session, connect_for, lost
from tasks.finetune.progress import Nobody
from tasks.finetune.ranks import own_gpu, rank
from tasks.finetune.roll import LOOK_SECONDS, Roll, Watch, orphaned
from tasks.finetune.trouble import as_error, as_words, write_first
from tasks.finetune.wire import Address, Sender
from tasks.values import Backbone, PreparedDataset, RegisteredModel

# where it stands in the store of several machines, behind the job's number
PROBLEM = "problem"  # what a person can mend
FAULT = "fault"  # what a process met that nobody foresaw
DONE = "done"  # a node has no process any more
OVER = "over"  # the first node's wish
_PATIENCE = timedelta(days=7)
_LEAVE_SECONDS = 10.0  # that a process which failed may take to leave the others


class Job(BaseModel):
    """What the processes are given, as JSON."""

    config: RunConfig
    prepared: PreparedDataset
    backbone: Backbone
    folder: Path
    teacher: RegisteredModel | None
    address: Address | None  # of who watches; on the first machine alone
    scratch: Path | None  # where a problem is written down; over several machines, in their store
    session: Session | None = None  # of several machines


def work(words: str) -> str:
    """Train as one of several processes; ``words`` is a ``Job``, and the answer a model, in JSON.

    torchrun's environment variables say which process this is.
    """
    from tasks.finetune.train import finetune  # which starts these processes

    job = Job.model_validate_json(words)
    # told before the group is left too: a process that failed may wait there for the others
    with _problem_told(job), _watched(job), _together(job), _problem_told(job):
        watcher: Sender | Nobody = Nobody()
        if rank() == 0 and job.address is not None:
            watcher = Sender(job.address)
            logging.getLogger("tasks").addHandler(watcher)
            logging.getLogger("tasks").setLevel(logging.INFO)
        model = finetune(job.config, job.prepared, job.backbone, job.folder, watcher, job.teacher)
        if isinstance(watcher, Sender):
            watcher.close()
    return model.model_dump_json()


@contextmanager
def _together(job: Job) -> Iterator[None]:
    device, recipe = pick_device(job.config.training.device), job.config.training
    if device.type == "cpu" and recipe.threads is None:
        share = torch.get_num_threads() // int(os.environ["LOCAL_WORLD_SIZE"])
        torch.set_num_threads(max(1, share))
    backend, gpu = "gloo", None
    if device.type == "cuda":  # NCCL takes the process's own GPU, and would guess at it otherwise
        backend, gpu = "nccl", own_gpu()
        torch.cuda.set_device(gpu)
    # rank 0 validates, and computes features, while the others wait; torchrun sees who has died,
    # and over several machines the watch
    if job.session is None:
        _keep_to_loopback()
        dist.init_process_group(backend, timeout=_PATIENCE, device_id=gpu)
    else:
        dist.init_process_group(
            backend,
            timeout=_PATIENCE,
            device_id=gpu,
            store=connect_for(job.session, "processes"),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
    try:
        yield
    except BaseException:
        with _ended_after(_LEAVE_SECONDS):
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _keep_to_loopback() -> None:
    """Have gloo and NCCL listen where no other machine reaches them, unless told where to."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    for name in names[:1]:  # lo, or lo0 on a Mac
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer: NCCL waits for who will never come."""
    end = threading.Timer(seconds, os._exit, (1,))
    end.daemon = True
    end.start()
    try:
        yield
    finally:
        end.cancel()


@contextmanager
def _problem_told(job: Job) -> Iterator[None]:
    """Leave what went wrong first where the process that started the training finds it."""
    try:
        yield
    except GraftError as error:
        _tell(job, PROBLEM, error if job.session is None else _of_node(error, job.session))
        raise
    except Exception as error:  # most often the line to one that failed: who was first counts
        _tell(job, FAULT, _fault(error, job.session))
        raise


def _tell(job: Job, what: str, error: GraftError) -> None:
    words = as_words(error, int(os.environ["RANK"]))
    if job.session is not None:
        Meeting(job.session.place).say_first(job.session.key(what), words)
    else:
        assert job.scratch is not None
        write_first(job.scratch / what, words)


def _of_node(error: GraftError, session: Session) -> GraftError:
    """Return ``error`` with the node in it where the machine may be what is at fault."""
    if session.node == 0 or isinstance(error, TrainingError | ConfigError):
        return error
    return type(error)(f"Node {session.node} ({socket.gethostname()}): {error}")


def _fault(error: Exception, session: Session | None) -> TrainingError:
    words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    number = os.environ["RANK"]
    if session is None:
        return TrainingError(
            f"Training process {number} failed: {words}\n"
            "Train with training.devices=1 to see where."
        )
    return TrainingError(
        f"Training process {number}, of node {session.node}, failed: {words}\n"
        "If that is about a connection, look at the network between the nodes."
    )


@contextmanager
def _watched(job: Job) -> Iterator[None]:
    """End this process when another machine failed or is gone: else it would wait for it."""
    if job.session is None:
        yield
        return
    with Watch(job.session.place, _Look(job.session), lambda _: os._exit(1)):
        yield


class _Look:
    """Look in the store for a reason to end."""

    def __init__(self, session: Session) -> None:
        self._session, self._parent, self._roll = session, os.getppid(), Roll(session.place)
        self._fault: float | None = None  # when one was seen first
        # a node that is gone is known by then, and is why the others met a fault
        self._grace = session.place.silence + 2 * LOOK_SECONDS

    def __call__(self, meeting: Meeting) -> GraftError | None:
        """Return why to end, None for no reason."""
        session = self._session
        if orphaned(self._parent):
            return lost(session.place)
        words = meeting.hear(session.key(PROBLEM))
        if words is not None:
            return as_error(words)
        if meeting.hear(session.key(OVER)) or meeting.hear(END):
            return TrainingError("The first node has ended the training.")
        missing = self._roll.missing(meeting)
        if missing is None:
            return self._met_fault(meeting)
        meeting.say_first(session.key(PROBLEM), as_words(missing))
        return missing

    def _met_fault(self, meeting: Meeting) -> GraftError | None:
        """Return a fault that nobody has given a reason for: NCCL would wait for that process."""
        words = meeting.hear(self._session.key(FAULT))
        if words is None:
            return None
        self._fault = self._fault or monotonic()
        return as_error(words) if monotonic() - self._fault > self._grace else None
