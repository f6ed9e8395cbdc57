"""The pretrained room as a Prefect task: the one file here that knows Prefect."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config import RunConfig
from tasks.pretrained.load import load_pretrained
from tasks.retry import RETRIES, RETRY_DELAYS, may_pass
from tasks.values import Backbone, RegisteredModel


@task(
    task_run_name="load {config.model.architecture}",
    timeout_seconds=6 * 3600,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
)
def load_backbone(
    config: RunConfig, classes: tuple[str, ...], registered: RegisteredModel | None, cache: Path
) -> Backbone:
    """Find, check and fit the pretrained weights; a published file is fetched once."""
    return load_pretrained(config, classes, registered, cache)
