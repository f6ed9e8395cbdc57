"""Several processes train together: torchrun's elastic launch, with the same config."""

from __future__ import annotations

import logging
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.config import RunConfig
from tasks.errors import ConfigError, ResourceError, Terminated, TrainingError
from tasks.finetune.device import pick_device
from tasks.finetune.progress import Watcher
from tasks.finetune.wire import relayed
from tasks.finetune.worker import Job, read_problem, work
from tasks.values import Backbone, FineTunedModel, PreparedDataset, RegisteredModel

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def train_together(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    watcher: Watcher,
    teacher: RegisteredModel | None,
) -> FineTunedModel:
    """Run ``finetune`` in ``training.devices`` processes (DDP, Li et al. 2020) and wait for them.

    NCCL on GPUs, one each; gloo on a CPU, whose threads the processes share. A batch is split
    among them, so that the result is that of one process up to rounding and the draws of dropout
    and augmentation; but on a CPU batch norm counts over each process's own images. Raises
    ``ConfigError`` for a batch that cannot be split, ``ResourceError`` when there are fewer GPUs
    than asked for, and what the first process to fail raised.
    """
    _check_devices(config)
    with (
        tempfile.TemporaryDirectory() as scratch,
        relayed(watcher) as address,
        _signals_kept(),
    ):
        job = Job(
            config=config,
            prepared=prepared,
            backbone=backbone,
            folder=folder.absolute(),
            teacher=teacher,
            address=address,
            scratch=Path(scratch),
        )
        found = _launch(job, config.training.devices)
    return FineTunedModel.model_validate_json(found)


def _launch(job: Job, processes: int) -> str:
    try:
        with _quiet():
            returned = elastic_launch(_settings(processes), work)(job.model_dump_json())
    except ChildFailedError as error:
        problem = read_problem(job.scratch)
        if problem is not None:
            raise problem from error
        number, failure = error.get_first_failure()
        raise TrainingError(
            f"Training process {number} ended by itself (exit code {failure.exitcode}).\n"
            "Its last words are above; a code of -9 is most often too little memory."
        ) from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise Terminated(error.sigval) from error
    found: str = returned[0]
    return found


def _settings(processes: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        local_addr="localhost",
        max_restarts=0,  # what half of an epoch left behind is not gone on with
        monitor_interval=0.1,
        start_method="spawn",
    )


def _check_devices(config: RunConfig) -> None:
    wanted, size = config.training.devices, config.training.batch_size
    device = pick_device(config.training.device)
    if size % wanted:
        raise ConfigError(
            f"training.batch_size={size} is not a multiple of training.devices={wanted}.\n"
            "Set one that is: it counts the images of all devices."
        )
    if device.type == "mps":
        raise ConfigError(
            f"training.devices={wanted}, but processes cannot share Apple's GPU.\n"
            "Set training.device=cpu, or training.devices=1."
        )
    if device.type == "cuda" and torch.cuda.device_count() < wanted:
        raise ResourceError(
            f"training.devices={wanted}, and this machine has {torch.cuda.device_count()} GPUs.\n"
            f"Set training.devices={torch.cuda.device_count()} or less."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the launcher's own account of a failed process off the terminal: we give ours."""
    logger = logging.getLogger("torch.distributed.elastic")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the signal handlers that torch's launcher replaces."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        try:
            for number, handler in before.items():
                signal.signal(number, handler)
        except ValueError:  # not the main thread, where torch replaces none
            pass
