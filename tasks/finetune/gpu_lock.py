"""One GPU fine-tunes one model at a time, whoever starts it: a lock file for each GPU of a machine.

Prefect's queue ``gpu`` keeps a second run from a worker; this also keeps out ``graft run`` typed
beside it, another user's, and a worker of another pool. The system lets go of the lock when its
process ends, however it ends. The files lie in a folder of this machine that all its users share;
containers that share a GPU share it by mounting one folder and naming it in ``GRAFT_GPU_LOCKS``
(``off``: no locks, where one big GPU is to fine-tune several small models at once).
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import torch

from tasks.artifacts import disk_errors, write_atomic
from tasks.finetune.device import pick_device
from tasks.recipe import TrainingConfig

FOLDER = "GRAFT_GPU_LOCKS"
OFF = "off"
POLL_SECONDS = 1.0
SAY_SECONDS = 600.0  # between two lines that say that it is still waited for

log = logging.getLogger(__name__)


class Gpu(NamedTuple):
    """A GPU of this machine."""

    key: str  # of the thing itself, whatever number CUDA_VISIBLE_DEVICES gives it
    name: str


@contextmanager
def gpus_held(training: TrainingConfig, run: str) -> Iterator[None]:
    """Hold the GPUs that ``training`` uses for the run named ``run``; wait for who has them.

    On a CPU nothing is held. Raises ``ResourceError`` where the folder of locks takes no file, and
    as ``pick_device``.
    """
    gpus = gpus_of(pick_device(training.device), training.devices)
    with ExitStack() as held:
        if os.environ.get(FOLDER) != OFF:
            for gpu in sorted(gpus):  # all in one order: two that want both never block each other
                held.enter_context(_held(gpu, run))
        yield


def gpus_of(device: torch.device, wanted: int) -> list[Gpu]:
    """Return the GPUs that ``wanted`` processes take on ``device``: none on a CPU."""
    if device.type == "mps":
        return [Gpu("mps", "Apple's GPU")]
    if device.type != "cuda":
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [Gpu(f"cuda-{gpu.uuid}", gpu.name) for gpu in found[:wanted]]


def _folder() -> Path:
    named = os.environ.get(FOLDER)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "graft-gpus"
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # every user's runs lock here; filelock follows no links
    return folder


@contextmanager
def _held(gpu: Gpu, run: str) -> Iterator[None]:
    from filelock import FileLock

    with disk_errors(f"the lock of {gpu.name}"):
        folder = _folder()
        note = folder / f"{gpu.key}.holder"
        lock = FileLock(folder / f"{gpu.key}.lock", mode=0o666)
        _wait(lock, gpu, note)
    try:
        _tell(note, run)
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _wait(lock: object, gpu: Gpu, note: Path) -> None:
    """Take the lock; say who has it, at once and then every ten minutes."""
    from filelock import FileLock, Timeout

    assert isinstance(lock, FileLock)
    said = -SAY_SECONDS
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if time.monotonic() - said >= SAY_SECONDS:
                log.info("waiting for %s: %s fine-tunes on it", gpu.name, _holder(note))
                said = time.monotonic()
            time.sleep(POLL_SECONDS)
        else:
            return


def _tell(note: Path, run: str) -> None:
    """Write down who holds the lock, for those who wait."""
    holder = {
        "run": run,
        "process": os.getpid(),
        "user": _user(),
        "since": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    }
    write_atomic(note, json.dumps(holder).encode())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return "unknown"


def _holder(note: Path) -> str:
    """Return who has a lock, as far as its note says: the folder is everybody's, and so is that."""
    unknown = "another run"
    try:
        if not note.is_file():  # a pipe would never be read to its end
            return unknown
        found = json.loads(note.read_text())
        return "run {run} (process {process} of {user}, since {since})".format(**found)
    except (OSError, ValueError, KeyError, TypeError):  # not written yet, just done, or not ours
        return unknown
