"""The main job as one Prefect flow: download to promotion, tracked in one MLflow run."""

from __future__ import annotations

from prefect import flow

from flows.approval import ask
from flows.artifacts import publish
from flows.candidate import begin, challenge, decided, trained
from flows.console import ready_logs, screen
from flows.inputs import images_held, read_raw
from flows.notify import tell_promotion
from flows.outcome import note_failure
from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.register.reopened import resumable_run
from tasks.register.tracking import RunTracker
from tasks.resuming import place_of
from tasks.unfinished import Place
from tasks.values import EvaluationReport, PromotionDecision


@flow(
    name="transfer",
    flow_run_name="{config.name}: {config.model.architecture}, {config.strategy.kind}",
    validate_parameters=True,
    on_failure=[note_failure],
)
def transfer(config: RunConfig, resume: bool = False) -> PromotionDecision:
    """Fine-tune a pretrained network on the images that ``config`` names and register it.

    Leaves a run folder, an MLflow run and a registered version. On an error it leaves neither the
    first nor the last, unless an epoch or more was kept, which ``resume`` goes on from, in that
    folder and that MLflow run. Raises the rooms' ``GraftError``, ``ConfigError`` where there is
    nothing to resume.
    """
    ready_logs()
    with images_held(), place_of(config, resume) as place:
        with resumable_run(config, place.begun.token, resume, place.metrics) as tracker:
            done = decided(config, place, tracker)
            report, decision = _through(config, place, tracker) if done is None else done
        screen.get().scored(report)
        publish(report, decision, tracker)
        tell_promotion(decision)
        ask(decision)
        place.finish()
    return decision


def _through(
    config: RunConfig, place: Place, tracker: RunTracker
) -> tuple[EvaluationReport, PromotionDecision]:
    """Do what is left of the run, up to its decision."""
    start = begin(config, place.begun, trains=not place.trained)
    raw = read_raw(config, cache_folder(config.output.cache))
    work = start.work(raw)
    place.agree(work, start.registered, start.teacher)
    with trained(start, raw, work, tracker, place) as candidate:
        return challenge(candidate, place)
