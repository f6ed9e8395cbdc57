"""The evaluate room as a Prefect task: the one file here that knows Prefect."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config import RunConfig
from tasks.evaluate.evaluate import evaluate
from tasks.values import EvaluationReport, FineTunedModel, PreparedDataset


@task(
    task_run_name="evaluate {model.architecture}", timeout_seconds=24 * 3600, cache_policy=NO_CACHE
)
def evaluate_model(
    config: RunConfig, prepared: PreparedDataset, model: FineTunedModel, folder: Path
) -> EvaluationReport:
    """Score the chosen model on the test images, once."""
    return evaluate(config, prepared, model, folder)
