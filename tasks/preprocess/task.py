"""The preprocess room as a Prefect task: the one file here that knows Prefect."""

from pathlib import Path
from typing import Any

from prefect import task

from tasks.artifacts import sha256_parts
from tasks.config import DataConfig
from tasks.preprocess.pack import pack_format
from tasks.preprocess.prepare import prepare
from tasks.values import InputSpec, PreparedDataset, RawDataset


def _key(_context: object, given: dict[str, Any]) -> str:
    raw, others = given["raw"], [repr(given[name]) for name in ("config", "seed", "spec", "cache")]
    return sha256_parts(pack_format(), raw.digest, repr((raw.ignored, raw.ignored_count)), *others)


@task(
    task_run_name="preprocess {raw.kind} at {spec.crop} px",
    timeout_seconds=24 * 3600,
    cache_key_fn=_key,  # a key turns persist_result on
    result_serializer="json",
)
def preprocess_images(
    config: DataConfig, seed: int, raw: RawDataset, spec: InputSpec, cache: Path
) -> PreparedDataset:
    """Split, decode and pack the images; cached by their digest and every setting."""
    return prepare(config, seed, raw, spec, cache)
