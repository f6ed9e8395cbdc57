"""From weights to a candidate, and from a candidate to a decision: what flows that register share.

The one half trains, and opens no test image. The other evaluates and registers, once.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.console import screen
from flows.inputs import hold, pack_images, say
from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.errors import GraftError, ResourceError, TrackingError
from tasks.evaluate.task import evaluate_model
from tasks.finetune.fit import check_machine
from tasks.finetune.progress import EpochRecord, StepProgress, Watcher
from tasks.finetune.task import finetune_model
from tasks.pretrained.load import input_spec
from tasks.pretrained.task import load_backbone
from tasks.public import without_secrets
from tasks.register.bounds import refuse_unknown_figures
from tasks.register.promote import standing_decision
from tasks.register.sameness import describe_work
from tasks.register.seen import seen_by_run
from tasks.register.starts import clean_validation
from tasks.register.task import register_model
from tasks.register.tracking import RunTracker
from tasks.register.warm_start import fetch_named, fetch_teacher
from tasks.retry import with_retries
from tasks.runfolder import run_folder
from tasks.unfinished import Begun, Place, can_go_on, left_tidy
from tasks.use import in_use
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    InputSpec,
    PreparedDataset,
    PromotionDecision,
    RawDataset,
    RegisteredModel,
)
from tasks.work import Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """Whose weights a run starts and learns from, and how its network wants the images."""

    config: RunConfig
    registered: RegisteredModel | None  # what ``model.weights`` names in the registry
    teacher: RegisteredModel | None
    input: InputSpec

    def work(self, raw: RawDataset) -> Work:
        """Return the digests of what comes of it on ``raw``; raises ``WeightsError``."""
        return describe_work(self.config, raw, self.registered, self.teacher)


@dataclass(frozen=True)
class Candidate:
    """A trained model, and all that evaluating and registering it takes."""

    config: RunConfig
    work: Work
    raw: RawDataset
    prepared: PreparedDataset
    model: FineTunedModel
    tracker: RunTracker


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


def begin(config: RunConfig, begun: Begun | None = None, trains: bool = True) -> Beginning:
    """Find teacher and registered weights; raises ``GraftError`` as those are looked for.

    Those of the versions with which the run was ``begun``, whichever an alias names by now.
    Where a training follows, it must be one that this machine can do, as ``check_machine`` says.
    """
    if trains:
        check_machine(config.training)
    cache = cache_folder(config.output.cache)
    weights, taught = (None, None) if begun is None else (begun.weights, begun.teacher)
    teacher = with_retries(fetch_teacher, config, cache, taught)
    registered = with_retries(fetch_named, config, cache, weights)
    spec = input_spec(config.model, config.preprocess, registered)
    return Beginning(config, registered, teacher, spec)


@contextmanager
def trained(
    start: Beginning,
    raw: RawDataset,
    work: Work,
    tracker: RunTracker,
    place: Place | None = None,
) -> Iterator[Candidate]:
    """Train, and yield the candidate; its run folder counts as in use until the block ends.

    ``place`` is the folder of a run that can be resumed, without which a new one is made. The
    folder is removed when training fails, unless the run can go on in it; afterwards that is up to
    the block.
    """
    config, cache = start.config, cache_folder(start.config.output.cache)
    prepared = pack_images(config, raw, start.input, cache)
    refuse_unknown_figures(config, prepared.classes)  # the gate would, after hours of training
    with_retries(tracker.datasets, prepared)
    backbone = load_backbone(config, prepared.classes, start.registered, cache)
    with_retries(tracker.backbone, backbone)
    named = (backbone.weights, None if start.teacher is None else start.teacher.weights)
    hold(cache, *(path for path in named if path is not None))
    source = f"{backbone.architecture} from {without_secrets(backbone.source)}"
    say("pretrained", source, f"{backbone.parameters:,} parameters")
    with ExitStack() as held:
        with run_folder(config) if place is None else left_tidy(place.folder) as folder:
            held.enter_context(in_use([folder]))
            model = None if place is None else place.model()
            if model is None:
                inner = None if place is None else place.inner
                watcher = _Watchers(screen.get(), tracker)
                given = (config, prepared, backbone, folder, watcher, start.teacher, inner)
                model = finetune_model(*given)
            if place is not None:
                place.keep_model(model)
                _track_earlier(place, tracker)
        yield Candidate(config, work, raw, prepared, model, tracker)


def _track_earlier(place: Place, tracker: RunTracker) -> None:
    """Track the epochs of earlier processes that were killed, or refused, before they did."""
    for record in place.records() if place.resumed else ():
        tracker.epoch(record)


def decided(
    config: RunConfig, place: Place, tracker: RunTracker
) -> tuple[EvaluationReport, PromotionDecision] | None:
    """Return what a run came to that was killed after its decision; None for any other."""
    report = place.report() if place.resumed else None
    if report is None:
        return None
    decision = with_retries(standing_decision, config, tracker.run_id)
    return None if decision is None else (report, decision)


def challenge(
    candidate: Candidate, place: Place | None = None
) -> tuple[EvaluationReport, PromotionDecision]:
    """Evaluate, register and let the gate decide; with a ``place`` only what is not done yet.

    On an error the run folder goes, but for two: when tracking fails after the evaluation, the
    trained model is worth more than tidiness, and a run with a place can go on there.
    """
    model = candidate.model
    folder = model.folder if place is None else place.folder
    report = None if place is None else place.report()
    if report is None:
        with left_tidy(folder):
            report = _evaluated(candidate)
            if place is not None:
                place.keep_report(report)
    with _kept(folder):
        with_retries(candidate.tracker.finished, model, report)
        decision = _register(candidate, report)
    return report, decision


def _evaluated(candidate: Candidate) -> EvaluationReport:
    config, prepared, model = candidate.config, candidate.prepared, candidate.model
    seen = seen_by_run(config, prepared, model)
    return evaluate_model(config, prepared, model, model.folder, seen)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Keep the run folder, whole by now, on an error, and say where it is when tracking fails.

    A full disk takes it away, and a stop, where no run can go on in it, as they do before.
    """
    try:
        yield
    except TrackingError as error:
        problem = str(error).partition("\n")[0]
        how = " The same command with --resume goes on there." if can_go_on(folder) else ""
        raise type(error)(f"{problem}\nThe trained model is kept in {folder}.{how}") from error
    except BaseException as error:
        wanted = isinstance(error, Exception) and not isinstance(error, ResourceError)
        if not wanted and not can_go_on(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _register(candidate: Candidate, report: EvaluationReport) -> PromotionDecision:
    """Register the model; what comes too late to change the decision does not undo the run."""
    config, run_id = candidate.config, candidate.tracker.run_id
    raw, prepared, model = candidate.raw, candidate.prepared, candidate.model
    clean = with_retries(clean_validation, model, prepared)
    work = candidate.work.model_copy(update={"validation": clean})
    try:
        return register_model(config, raw, prepared, model, report, run_id, work)
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
