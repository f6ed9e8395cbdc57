"""The download room as a Prefect task: the one file here that knows Prefect."""

from pathlib import Path

from prefect import task

from tasks.config import DataConfig
from tasks.download.identity import download_key
from tasks.download.source import download
from tasks.retry import RETRIES, RETRY_DELAYS, may_pass
from tasks.values import RawDataset


@task(
    task_run_name="download {config.kind}",
    timeout_seconds=24 * 3600,
    cache_key_fn=lambda _context, given: download_key(given["config"], given["cache"]),
    persist_result=True,
    result_serializer="json",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=may_pass,
)
def download_images(config: DataConfig, cache: Path) -> RawDataset:
    """Fetch, unpack and index the images; cached by the digest of what ``config`` names."""
    return download(config, cache)
