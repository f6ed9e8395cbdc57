"""What each of several training processes does."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import BaseModel

from tasks import errors
from tasks.config import RunConfig
from tasks.errors import GraftError
from tasks.finetune.device import pick_device
from tasks.finetune.progress import Nobody
from tasks.finetune.ranks import local_device, rank
from tasks.finetune.wire import Address, Sender
from tasks.values import Backbone, PreparedDataset, RegisteredModel

_PROBLEM = "problem.json"
_PATIENCE = timedelta(days=7)


class Job(BaseModel):
    """What the processes are given, as JSON."""

    config: RunConfig
    prepared: PreparedDataset
    backbone: Backbone
    folder: Path
    teacher: RegisteredModel | None
    address: Address
    scratch: Path  # where a problem is written down


def work(words: str) -> str:
    """Train as one of several processes; ``words`` is a ``Job``, and the answer a model, in JSON.

    torchrun's environment variables say which process this is.
    """
    from tasks.finetune.train import finetune  # which starts these processes

    job = Job.model_validate_json(words)
    with _problem_written(job.scratch), _together(job.config):
        watcher: Sender | Nobody = Nobody()
        if rank() == 0:
            watcher = Sender(job.address)
            logging.getLogger("tasks").addHandler(watcher)
            logging.getLogger("tasks").setLevel(logging.INFO)
        model = finetune(job.config, job.prepared, job.backbone, job.folder, watcher, job.teacher)
        if isinstance(watcher, Sender):
            watcher.close()
    return model.model_dump_json()


@contextmanager
def _together(config: RunConfig) -> Iterator[None]:
    device = pick_device(config.training.device)
    if device.type == "cpu" and config.training.threads is None:
        share = torch.get_num_threads() // int(os.environ["LOCAL_WORLD_SIZE"])
        torch.set_num_threads(max(1, share))
    # rank 0 validates, and computes features, while the others wait; torchrun sees who has died
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(local_device(device))
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _problem_written(scratch: Path) -> Iterator[None]:
    """Leave what went wrong first where the process that started this one finds it."""
    try:
        yield
    except GraftError as error:
        words = json.dumps({"kind": type(error).__name__, "text": str(error)})
        try:
            with (scratch / _PROBLEM).open("x") as file:
                file.write(words)
        except FileExistsError:  # another process was first
            pass
        raise


def read_problem(scratch: Path) -> GraftError | None:
    """Return the error that the first process to fail wrote down."""
    path = scratch / _PROBLEM
    if not path.is_file():
        return None
    words = json.loads(path.read_text())
    kind: type[GraftError] = getattr(errors, words["kind"])
    return kind(words["text"])
