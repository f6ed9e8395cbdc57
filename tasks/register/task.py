"""The register room as a Prefect task: the one file here that knows Prefect."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import values, work
from tasks.config import RunConfig
from tasks.register.promote import register
from tasks.retry import RETRIES, RETRY_DELAYS, may_pass


@task(
    task_run_name="register {config.promotion.model}",
    timeout_seconds=6 * 3600,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
)
def register_model(
    config: RunConfig,
    raw: values.RawDataset,
    prepared: values.PreparedDataset,
    model: values.FineTunedModel,
    report: values.EvaluationReport,
    run_id: str,
    origin: work.Work | None = None,
) -> values.PromotionDecision:
    """Register a version and decide whether it becomes champion."""
    return register(config, raw, prepared, model, report, run_id, origin)
