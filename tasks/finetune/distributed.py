"""Several processes train together: torchrun's elastic launch, with the same config."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

from tasks.config import RunConfig
from tasks.finetune.fit import check_machine
from tasks.finetune.launch import launch
from tasks.finetune.progress import Watcher
from tasks.finetune.session import convened
from tasks.finetune.wire import relayed
from tasks.finetune.worker import Job
from tasks.values import Backbone, FineTunedModel, PreparedDataset, RegisteredModel


def train_together(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    watcher: Watcher,
    teacher: RegisteredModel | None,
) -> FineTunedModel:
    """Run ``finetune`` in ``training.devices`` processes (DDP, Li et al. 2020) and wait for them.

    With ``training.nodes``, on each of so many machines. NCCL on GPUs, one each; gloo on a CPU,
    whose threads the processes share. A batch is split among them, so that the result is that of
    one process up to rounding and the draws of dropout and augmentation; but on a CPU batch norm
    counts over each process's own images. Raises as ``check_machine``, ``ResourceError`` when a
    machine is gone, and what the first process to fail raised.
    """
    place = check_machine(config.training)
    with tempfile.TemporaryDirectory() as scratch, relayed(watcher) as address:
        job = Job(
            config=config,
            prepared=prepared,
            backbone=backbone,
            folder=folder.absolute(),
            teacher=teacher,
            address=address,
            scratch=Path(scratch),
        )
        with nullcontext(job) if place is None else convened(job, place) as ready:
            found = launch(ready)
    return FineTunedModel.model_validate_json(found)
