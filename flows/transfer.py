"""The main job as one Prefect flow: download to promotion, tracked in one MLflow run."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from prefect import State, Task, flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.console import ready_logs, screen
from tasks.artifacts import cache_folder, new_folder, user_folder, write_atomic
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.download.task import download_images
from tasks.evaluate.task import evaluate_model
from tasks.finetune.progress import EpochRecord, StepProgress, Watcher
from tasks.finetune.task import finetune_model
from tasks.preprocess.task import preprocess_images
from tasks.presence import is_present
from tasks.pretrained.load import input_spec
from tasks.pretrained.task import load_backbone
from tasks.register.registry import fetch
from tasks.register.task import register_model
from tasks.register.tracking import RunTracker, open_run
from tasks.values import (
    Backbone,
    EvaluationReport,
    PreparedDataset,
    PromotionDecision,
    RawDataset,
    RegisteredModel,
)

log = logging.getLogger(__name__)

Cached = TypeVar("Cached", RawDataset, PreparedDataset)


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


class _Tracked:
    """Writes epochs, not steps, to MLflow."""

    def __init__(self, tracker: RunTracker) -> None:
        self._tracker = tracker

    def step(self, progress: StepProgress) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        self._tracker.epoch(record)


@flow(
    name="transfer",
    flow_run_name="{config.name}: {config.model.architecture}, {config.strategy.kind}",
    validate_parameters=True,
)
def transfer(config: RunConfig) -> PromotionDecision:
    """Fine-tune a pretrained network on the images that ``config`` names and register it.

    Leaves a run folder, an MLflow run and a registered version, or on any error none of the
    first and the last. Raises the rooms' ``GraftError`` unchanged.
    """
    ready_logs()
    with open_run(config) as tracker:
        raw, prepared, backbone = _inputs(config, tracker)
        name = f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
        with new_folder(user_folder(config.output.folder), name) as folder:
            write_atomic(folder / "config.yaml", dump_config(config).encode())
            return _train(config, raw, prepared, backbone, folder, tracker)


def _inputs(config: RunConfig, tracker: RunTracker) -> tuple[RawDataset, PreparedDataset, Backbone]:
    cache = cache_folder(config.output.cache)
    registered = _registered(config, cache)
    spec = input_spec(config.model, config.preprocess, registered)
    raw, how = _used_again(download_images, config.data, cache)
    images, classes = sum(raw.counts.values()), len(raw.classes)
    _say("download", f"{images:,} images", f"{classes} classes", _digest(raw), how)
    prepared, how = _used_again(preprocess_images, config.data, config.seed, raw, spec, cache)
    sizes = (f"{split.name} {split.n:,}" for split in (prepared.train, prepared.val, prepared.test))
    _say("preprocess", *sizes, f"{spec.crop} px", _digest(prepared), how)
    for warning in prepared.warnings:
        log.warning(warning, extra={"room": "preprocess"})
    tracker.datasets(prepared)
    backbone = load_backbone(config, prepared.classes, registered, cache)
    tracker.backbone(backbone)
    source = f"{backbone.architecture} from {backbone.source}"
    _say("pretrained", source, f"{backbone.parameters:,} parameters")
    return raw, prepared, backbone


def _registered(config: RunConfig, cache: Path) -> RegisteredModel | None:
    uri = config.model.weights or ""
    return fetch(uri, cache) if uri.startswith("models:/") else None


def _used_again(task: Task[..., Cached], *given: object) -> tuple[Cached, str]:
    """Run a cached task, afresh when the files of its cached value are gone; say which it was."""
    state: State[Cached] = task(*given, return_state=True)  # type: ignore[assignment] # *given hides the overload
    value = state.result()
    if is_present(value):
        return value, "cached" if state.name == "Cached" else "new"
    log.warning("the files of a cached result are gone; making them again")
    return task.with_options(refresh_cache=True)(*given), "made again"


def _say(room: str, *facts: str) -> None:
    log.info(", ".join(facts), extra={"room": room})


def _digest(value: RawDataset | PreparedDataset) -> str:
    return f"digest {value.digest[:12]}"


def _train(
    config: RunConfig,
    raw: RawDataset,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    tracker: RunTracker,
) -> PromotionDecision:
    shown = screen.get()
    watcher = _Watchers(shown, _Tracked(tracker))
    model = finetune_model(config, prepared, backbone, folder, watcher)
    report = evaluate_model(config, prepared, model, folder)
    tracker.finished(model, report)
    decision = register_model(config, raw, prepared, model, report, tracker.run_id)
    _publish(report, decision)
    shown.scored(report)
    return decision


def _publish(report: EvaluationReport, decision: PromotionDecision) -> None:
    """Put the report and the figures of each class into the Prefect UI."""
    text = (report.folder / "report.md").read_text()
    verdict = f"\n## Promotion\n\n`{decision.uri}`: {decision.reason}\n"
    create_markdown_artifact(text + verdict, key="report", description=decision.uri)
    rows = [row.model_dump() for row in report.classes]
    create_table_artifact(rows, key="classes", description=f"{decision.uri} on its test images")
