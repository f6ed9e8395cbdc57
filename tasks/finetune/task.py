"""The finetune room as a Prefect task: the one file here that knows Prefect."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config import RunConfig
from tasks.finetune.progress import Watcher
from tasks.finetune.train import finetune
from tasks.values import Backbone, FineTunedModel, PreparedDataset, RegisteredModel


@task(
    task_run_name="finetune {backbone.architecture} ({config.strategy.kind})",
    timeout_seconds=30 * 24 * 3600,
    cache_policy=NO_CACHE,
)
def finetune_model(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    watcher: Watcher,
    teacher: RegisteredModel | None = None,
    checkpoints: Path | None = None,
) -> FineTunedModel:
    """Train, and keep what validation chooses; never repeated from a cache."""
    return finetune(config, prepared, backbone, folder, watcher, teacher, checkpoints)
