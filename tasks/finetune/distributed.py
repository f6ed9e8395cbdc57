"""Several processes train together: torchrun's elastic launch, with the same config."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.finetune.device import pick_device
from tasks.finetune.launch import check_gpus, launch
from tasks.finetune.meeting import check_nodes
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
    counts over each process's own images. Raises ``ConfigError`` for a batch that cannot be split
    and for machines that the command was not started for, ``ResourceError`` when there are fewer
    GPUs than asked for or a machine is gone, and what the first process to fail raised.
    """
    place = check_nodes(config.training.nodes)
    _check_devices(config)
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


def _check_devices(config: RunConfig) -> None:
    recipe = config.training
    wanted, nodes, size = recipe.devices, recipe.nodes, recipe.batch_size
    if size % (wanted * nodes):
        several = f" times training.nodes={nodes}" if nodes > 1 else ""
        raise ConfigError(
            f"training.batch_size={size} is not a multiple of training.devices={wanted}{several}.\n"
            "Set one that is: it counts the images of all devices."
        )
    if wanted > 1 and pick_device(recipe.device).type == "mps":
        raise ConfigError(
            f"training.devices={wanted}, but processes cannot share Apple's GPU.\n"
            "Set training.device=cpu, or training.devices=1."
        )
    check_gpus(recipe)
