"""One cell of a comparison, and what of it is on disk; this file imports without Prefect."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import new_folder, write_atomic
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.evaluate.evaluate import evaluate
from tasks.finetune.progress import read_history
from tasks.finetune.train import finetune
from tasks.public import public_config
from tasks.register.nested import child_tags
from tasks.register.seen import seen_by_run
from tasks.register.tracking import RunTracker, open_run
from tasks.retry import with_retries
from tasks.values import (
    Backbone,
    EvaluationReport,
    FineTunedModel,
    PreparedDataset,
    RegisteredModel,
    Value,
)

log = logging.getLogger(__name__)

RESULT = "cell.json"  # written last: a folder that has it is whole


class Work(Value):
    """All that a cell needs, so that any process can do it."""

    title: str
    key: str  # of its content; names its folder and its MLflow run
    config: RunConfig
    prepared: PreparedDataset
    backbone: Backbone
    teacher: RegisteredModel | None
    parent_folder: Path
    parent_run: str
    keep_weights: bool

    @property
    def folder(self) -> Path:
        """Return the folder of this cell alone."""
        return self.parent_folder / self.key


class Finished(Value):
    """What a cell leaves behind."""

    model: FineTunedModel
    report: EvaluationReport


def carry_out(work: Work) -> Finished:
    """Train and score one cell, unless that is on disk, and write its run into MLflow.

    Raises the rooms' ``GraftError``; what was half made is removed.
    """
    with quiet(), open_run(work.config, child_tags(work.parent_run, work.key)) as tracker:
        with_retries(tracker.datasets, work.prepared)
        with_retries(tracker.backbone, work.backbone)
        finished = stored(work)
        if finished is None or not _replayed(finished, tracker):
            finished = _train(work, tracker)
        with_retries(tracker.finished, finished.model, finished.report)
    return finished


def stored(work: Work) -> Finished | None:
    """Return what an earlier start made of this cell, if all of that is there."""
    try:
        finished = Finished.model_validate_json((work.folder / RESULT).read_bytes())
    except (OSError, ValidationError):  # not there, or of a version with other fields
        return None
    if work.keep_weights and not finished.model.weights.is_file():
        return None
    return finished


def _train(work: Work, tracker: RunTracker) -> Finished:
    if work.folder.exists():
        if not (work.folder / RESULT).exists():
            log.warning("%s begins again: its process had been killed", work.title)
        shutil.rmtree(work.folder, ignore_errors=True)
    config = work.config
    with new_folder(work.parent_folder, work.key) as folder:
        write_atomic(folder / "config.yaml", dump_config(public_config(config)).encode())
        model = finetune(config, work.prepared, work.backbone, folder, tracker, work.teacher)
        seen = seen_by_run(config, work.prepared, model)
        report = evaluate(config, work.prepared, model, folder, seen)
        if not work.keep_weights:
            model.weights.unlink()
        finished = Finished(model=model, report=report)
        write_atomic(folder / RESULT, finished.model_dump_json(indent=2).encode())
    return finished


def _replayed(finished: Finished, tracker: RunTracker) -> bool:
    """Write the epochs of an earlier start into a run that has none; say whether they are there."""
    history = finished.model.history
    try:
        records = read_history(history)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read, its cell begins again: %s", history, error)
        return False
    for record in records:
        tracker.epoch(record)
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Let only warnings through: the rooms would say three lines a cell."""
    logger = logging.getLogger("tasks")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
