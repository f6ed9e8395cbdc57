"""The main job as one Prefect flow: download to promotion, tracked in one MLflow run."""

from __future__ import annotations

from prefect import flow

from flows.approval import ask
from flows.artifacts import publish
from flows.candidate import begin, challenge, trained
from flows.console import ready_logs, screen
from flows.inputs import images_held, read_raw
from flows.notify import tell_promotion
from flows.outcome import note_failure
from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.register.tracking import open_run
from tasks.values import PromotionDecision


@flow(
    name="transfer",
    flow_run_name="{config.name}: {config.model.architecture}, {config.strategy.kind}",
    validate_parameters=True,
    on_failure=[note_failure],
)
def transfer(config: RunConfig) -> PromotionDecision:
    """Fine-tune a pretrained network on the images that ``config`` names and register it.

    Leaves a run folder, an MLflow run and a registered version. On an error it leaves neither the
    first nor the last, but for one: when tracking fails after the evaluation, the trained model is
    worth more than tidiness, so the run folder stays. Raises the rooms' ``GraftError``.
    """
    ready_logs()
    with images_held(), open_run(config) as tracker:
        start = begin(config)
        raw = read_raw(config, cache_folder(config.output.cache))
        with trained(start, raw, start.work(raw), tracker) as candidate:
            report, decision = challenge(candidate)
    screen.get().scored(report)
    publish(report, decision, tracker)
    tell_promotion(decision)
    ask(decision)
    return decision
