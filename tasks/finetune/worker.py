"""What each of several training processes does."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import BaseModel

from tasks.config import RunConfig
from tasks.errors import ConfigError, GraftError, TrainingError
from tasks.finetune.device import pick_device
from tasks.finetune.meeting import END, Meeting, Session, connect_for, lost
from tasks.finetune.progress import Nobody
from tasks.finetune.ranks import local_device, rank
from tasks.finetune.roll import Roll, Watch, orphaned
from tasks.finetune.trouble import as_error, as_words, write_problem
from tasks.finetune.wire import Address, Sender
from tasks.values import Backbone, PreparedDataset, RegisteredModel

# where it stands in the store of several machines, behind the job's number
PROBLEM = "problem"  # what a person can mend
FAULT = "fault"  # what a process met that nobody foresaw
DONE = "done"  # a node has no process any more
OVER = "over"  # the first node's wish
_PATIENCE = timedelta(days=7)


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
    with _problem_told(job), _watched(job), _together(job):
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
    backend = "nccl" if device.type == "cuda" else "gloo"
    # rank 0 validates, and computes features, while the others wait; torchrun sees who has died,
    # and over several machines the watch
    if job.session is None:
        dist.init_process_group(backend, timeout=_PATIENCE)
    else:
        dist.init_process_group(
            backend,
            timeout=_PATIENCE,
            store=connect_for(job.session, "processes"),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
    try:
        if device.type == "cuda":
            torch.cuda.set_device(local_device(device))
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _problem_told(job: Job) -> Iterator[None]:
    """Leave what went wrong first where the process that started the training finds it."""
    try:
        yield
    except GraftError as error:
        if job.session is not None:
            words = as_words(_of_node(error, job.session))
            Meeting(job.session.place).say_first(job.session.key(PROBLEM), words)
        elif job.scratch is not None:
            write_problem(job.scratch, error)
        raise
    except Exception as error:
        if job.session is not None:  # most often the line to one that failed: who was first counts
            words = as_words(_fault(error, job.session))
            Meeting(job.session.place).say_first(job.session.key(FAULT), words)
        raise


def _of_node(error: GraftError, session: Session) -> GraftError:
    """Return ``error`` with the node in it where the machine may be what is at fault."""
    if session.node == 0 or isinstance(error, TrainingError | ConfigError):
        return error
    return type(error)(f"Node {session.node} ({socket.gethostname()}): {error}")


def _fault(error: Exception, session: Session) -> TrainingError:
    words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return TrainingError(
        f"Training process {os.environ['RANK']}, of node {session.node}, failed: {words}\n"
        "If that is about a connection, look at the network between the nodes."
    )


@contextmanager
def _watched(job: Job) -> Iterator[None]:
    """End this process when another machine failed or is gone: else it would wait for it."""
    if job.session is None:
        yield
        return
    session, parent, roll = job.session, os.getppid(), Roll(job.session.place)

    def look(meeting: Meeting) -> GraftError | None:
        if orphaned(parent):
            return lost(session.place)
        words = meeting.hear(session.key(PROBLEM))
        if words is not None:
            return as_error(words)
        if meeting.hear(session.key(OVER)) or meeting.hear(END):
            return TrainingError("The first node has ended the training.")
        missing = roll.missing(meeting)
        if missing is not None:
            meeting.say_first(session.key(PROBLEM), as_words(missing))
        return missing

    with Watch(session.place, look, lambda _: os._exit(1)):
        yield
