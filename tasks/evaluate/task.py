"""The evaluate room as a Prefect task: the one file here that knows Prefect."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config import RunConfig
from tasks.evaluate.evaluate import evaluate
from tasks.measures import Seen
from tasks.values import EvaluationReport, FineTunedModel, PreparedDataset


@task(
    task_run_name="evaluate {model.architecture}", timeout_seconds=24 * 3600, cache_policy=NO_CACHE
)
def evaluate_model(
    config: RunConfig, prepared: PreparedDataset, model: FineTunedModel, folder: Path, seen: Seen
) -> EvaluationReport:
    """Score the chosen model on the test images, of which it has ``seen`` some or none, once."""
    return evaluate(config, prepared, model, folder, seen)
