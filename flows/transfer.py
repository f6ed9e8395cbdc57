"""The main job as one Prefect flow: download to promotion, tracked in one MLflow run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from prefect import flow

from flows.approval import ask
from flows.artifacts import publish
from flows.console import ready_logs, screen
from flows.inputs import read_images, say
from tasks.artifacts import cache_folder, new_folder, user_folder, write_atomic
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.errors import GraftError, ResourceError, TrackingError
from tasks.evaluate.task import evaluate_model
from tasks.finetune.progress import EpochRecord, StepProgress, Watcher
from tasks.finetune.task import finetune_model
from tasks.pretrained.load import input_spec
from tasks.pretrained.task import load_backbone
from tasks.public import public_config, without_secrets
from tasks.register.promote import standing_decision
from tasks.register.task import register_model
from tasks.register.tracking import RunTracker, open_run
from tasks.register.warm_start import fetch_named, fetch_teacher
from tasks.retry import with_retries
from tasks.values import (
    Backbone,
    EvaluationReport,
    FineTunedModel,
    PreparedDataset,
    PromotionDecision,
    RawDataset,
    RegisteredModel,
)

log = logging.getLogger(__name__)


class _Watchers:
    """Passes what training says to several watchers."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def step(self, progress: StepProgress) -> None:
        for watcher in self._watchers:
            watcher.step(progress)

    def epoch(self, record: EpochRecord) -> None:
        for watcher in self._watchers:
            watcher.epoch(record)


@flow(
    name="transfer",
    flow_run_name="{config.name}: {config.model.architecture}, {config.strategy.kind}",
    validate_parameters=True,
)
def transfer(config: RunConfig) -> PromotionDecision:
    """Fine-tune a pretrained network on the images that ``config`` names and register it.

    Leaves a run folder, an MLflow run and a registered version. On an error it leaves neither the
    first nor the last, but for one: when tracking fails after the evaluation, the trained model is
    worth more than tidiness, so the run folder stays. Raises the rooms' ``GraftError``.
    """
    ready_logs()
    with open_run(config) as tracker:
        teacher = with_retries(fetch_teacher, config, cache_folder(config.output.cache))
        raw, prepared, backbone = _inputs(config, tracker)
        name = f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
        with new_folder(user_folder(config.output.folder), name) as folder:
            write_atomic(folder / "config.yaml", dump_config(public_config(config)).encode())
            model, report = _train(config, prepared, backbone, folder, tracker, teacher)
        with _kept(folder):
            with_retries(tracker.finished, model, report)
            decision = _register(config, raw, prepared, model, report, tracker.run_id)
    screen.get().scored(report)
    publish(report, decision, tracker)
    ask(decision)
    return decision


def _inputs(config: RunConfig, tracker: RunTracker) -> tuple[RawDataset, PreparedDataset, Backbone]:
    cache = cache_folder(config.output.cache)
    registered = with_retries(fetch_named, config, cache)
    spec = input_spec(config.model, config.preprocess, registered)
    raw, prepared = read_images(config, spec, cache)
    with_retries(tracker.datasets, prepared)
    backbone = load_backbone(config, prepared.classes, registered, cache)
    with_retries(tracker.backbone, backbone)
    source = f"{backbone.architecture} from {without_secrets(backbone.source)}"
    say("pretrained", source, f"{backbone.parameters:,} parameters")
    return raw, prepared, backbone


def _train(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    tracker: RunTracker,
    teacher: RegisteredModel | None,
) -> tuple[FineTunedModel, EvaluationReport]:
    watcher = _Watchers(screen.get(), tracker)
    model = finetune_model(config, prepared, backbone, folder, watcher, teacher)
    return model, evaluate_model(config, prepared, model, folder)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Keep the run folder, whole by now, on an error, and say where it is when tracking fails.

    A stop and a full disk take it away, as they do before: the user does not want it, or cannot
    have it.
    """
    try:
        yield
    except TrackingError as error:
        problem = str(error).partition("\n")[0]
        raise type(error)(f"{problem}\nThe trained model is kept in {folder}.") from error
    except BaseException as error:
        if isinstance(error, ResourceError) or not isinstance(error, Exception):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _register(
    config: RunConfig,
    raw: RawDataset,
    prepared: PreparedDataset,
    model: FineTunedModel,
    report: EvaluationReport,
    run_id: str,
) -> PromotionDecision:
    """Register the model; what comes too late to change the decision does not undo the run."""
    try:
        return register_model(config, raw, prepared, model, report, run_id)
    except BaseException as error:
        decision = _standing(config, run_id)
        if decision is None:
            raise
        log.warning("%s is registered all the same: %s", decision.uri, error)
        return decision


def _standing(config: RunConfig, run_id: str) -> PromotionDecision | None:
    try:
        return standing_decision(config, run_id)
    except GraftError:  # it must not hide what went wrong first
        return None
