"""Everything that a report says beyond the plain figures, each part only where it was asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from tasks.config import RunConfig
from tasks.errors import EvaluationError
from tasks.evaluate.calibration import fit_temperature, scaled
from tasks.evaluate.corruptions import robustness
from tasks.evaluate.curves import curves
from tasks.evaluate.estimates import estimate, estimate_areas, estimate_classes
from tasks.evaluate.explain import explain
from tasks.evaluate.lately import forget, remember
from tasks.evaluate.metrics import measure
from tasks.evaluate.novelty import novelty, score_noise, served_novelty
from tasks.evaluate.reference import ReferenceSample
from tasks.evaluate.rejection import choose_rejection, served_rejection
from tasks.evaluate.reliability import reliability
from tasks.evaluate.score import Scores
from tasks.evaluate.scorer import Scorer
from tasks.evaluate.slices import left_out, slice_table
from tasks.evaluate.speed import measure_speed
from tasks.evaluationconfig import EvaluationConfig
from tasks.index import read_index
from tasks.measures import (
    Calibration,
    Corruption,
    Curve,
    Estimate,
    ExplainedImage,
    Novelty,
    Rejection,
    ReliabilityBin,
    Repeatability,
    Seen,
    Slice,
    SlicesLeftOut,
    Speed,
)
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    PackedSplit,
    PreparedDataset,
    RegisteredModel,
)

NOISE_IMAGES = 200  # of uniform noise, at most


class Parts(TypedDict, total=False):
    """Fields of ``EvaluationReport``."""

    estimates: tuple[Estimate, ...]
    slices: tuple[Slice, ...]
    slices_left_out: tuple[SlicesLeftOut, ...]
    curves: tuple[Curve, ...]
    reliability: tuple[ReliabilityBin, ...]
    calibration: Calibration | None
    rejection: Rejection | None
    novelty: Novelty | None
    corruptions: tuple[Corruption, ...]
    speed: Speed | None
    explained: tuple[ExplainedImage, ...]
    reference: str | None
    seen: Seen | None
    repeatable: Repeatability | None


@dataclass(frozen=True)
class Subject:
    """What is assessed: a model, its data, and what opens both."""

    config: RunConfig
    prepared: PreparedDataset
    model: FineTunedModel | RegisteredModel
    scorer: Scorer
    sample: ReferenceSample | None = None  # what is kept of the splits as they are scored

    def score(self, split: PackedSplit) -> Scores:
        """Score ``split`` with its logits as they are; raises ``EvaluationError`` for NaN."""
        if self.sample is None:
            return finite(self.scorer.score(split), split.name)
        return finite(self.sample.score(self.scorer, split), split.name)

    def score_test(self) -> Scores:
        """Score the test split as ``score`` does, and remember it for the gate."""
        forget()
        split = self.prepared.test
        scores = self.score(split)
        remember(self.config, self.model, split, scores)
        return scores


def finite(scores: Scores, what: str) -> Scores:
    """Return the scores; raises ``EvaluationError`` where the network gave what is no number."""
    known_n = np.isfinite(scores.probabilities_nc).all(axis=1) & np.isfinite(scores.energy_n)
    if not known_n.all():
        raise EvaluationError(
            f"Of {(~known_n).sum():,} of {len(known_n):,} {what} images the network's outputs are "
            "no finite numbers.\nTake other weights, train anew with a lower "
            "training.learning_rate, or check preprocess.mean and preprocess.std."
        )
    return scores


def assess(subject: Subject, folder: Path) -> tuple[Scores, Parts]:
    """Score the test split once and return its scores, calibrated, with all parts of the report.

    Temperature, rejection threshold and energy threshold come from validation alone; those of a
    registered version, and of an export of it, are the ones that it is served with. Pictures go
    into ``folder``. Raises ``EvaluationError`` for outputs that are no finite numbers,
    ``ResourceError`` when memory or disk runs out.
    """
    settings, prepared = subject.config.evaluation, subject.prepared
    test, parts = _calibrated(subject)
    repeat = (settings.bootstrap, settings.confidence, subject.config.seed)
    columns = subject.config.data.slice_columns
    records = read_index(prepared.test.index)
    areas = estimate_areas(test, prepared.classes, *repeat)
    parts["estimates"] = (
        *estimate(test, *repeat),
        *estimate_classes(test, prepared.classes, *repeat),
        *areas,
    )
    parts["slices"] = slice_table(test, records, columns, *repeat)
    parts["slices_left_out"] = left_out(records, columns)
    parts["curves"] = curves(test, prepared.classes, areas)
    parts["reliability"] = reliability(test)
    parts["corruptions"] = _corruptions(subject)
    parts["speed"] = timed(subject.config, subject.scorer, subject.model.weights)
    parts["explained"] = _explained(subject, test, folder)
    return test, parts


def report_of(subject: Subject, scores: Scores, parts: Parts, folder: Path) -> EvaluationReport:
    """Return the report on the scores and parts of ``assess``, whose files are in ``folder``."""
    test = subject.prepared.test
    return EvaluationReport(
        folder=folder,
        model_sha256=subject.model.sha256,
        test_digest=test.digest,
        n=test.n,
        predictions=folder / "predictions.parquet",
        report=folder / "report.json",
        seconds=scores.seconds,
        images_per_second=test.n / scores.seconds,
        **asdict(measure(scores, subject.prepared.classes)),
        **parts,
    )


def chooses_by_validation(settings: EvaluationConfig) -> bool:
    """Tell whether validation is scored as well, since something is chosen by it."""
    return settings.calibrate or settings.novelty or settings.rejection_error is not None


def _calibrated(subject: Subject) -> tuple[Scores, Parts]:
    """Score test and, where something is chosen by it, validation."""
    model, settings = subject.model, subject.config.evaluation
    if isinstance(model, RegisteredModel):
        return _as_served(subject, model)
    test, parts = subject.score_test(), Parts()
    if not chooses_by_validation(settings):
        return test, parts
    val = subject.score(subject.prepared.val)
    if settings.novelty:
        parts["novelty"] = novelty(val, test, _noise(subject))
    if settings.calibrate:
        calibration = parts["calibration"] = fit_temperature(val)
        val, test = (scaled(scores, calibration.temperature) for scores in (val, test))
    if settings.rejection_error is not None:
        parts["rejection"] = choose_rejection(val, test, settings.rejection_error)
    return test, parts


def _as_served(subject: Subject, model: RegisteredModel) -> tuple[Scores, Parts]:
    """Score test with the temperature and thresholds of a version: nothing is chosen anew."""
    test, parts = subject.score(subject.prepared.test), Parts()
    if model.novel_above is not None and subject.config.evaluation.novelty:
        parts["novelty"] = served_novelty(model.novel_above, test, _noise(subject))
    test = scaled(test, model.temperature)
    if model.reject_below is not None:
        parts["rejection"] = served_rejection(test, model.reject_below)
    return test, parts


def _noise(subject: Subject) -> Scores:
    scorer = subject.scorer
    noise = score_noise(
        scorer.network,
        scorer.spec,
        scorer.device,
        scorer.fitting,
        min(NOISE_IMAGES, subject.prepared.test.n),
        subject.config.seed,
        subject.prepared.multi_label,
    )
    return finite(noise, "noise")


def _corruptions(subject: Subject) -> tuple[Corruption, ...]:
    images, scorer = subject.config.evaluation.robustness_images, subject.scorer
    if not images:
        return ()
    return robustness(
        scorer.network,
        subject.prepared.test,
        scorer.spec,
        scorer.device,
        scorer.fitting,
        images,
        subject.config.seed,
    )


def timed(config: RunConfig, scorer: Scorer, file: Path) -> Speed | None:
    """Return what a prediction costs, ``file`` being the network's; None where nothing is timed."""
    runs = config.evaluation.latency_runs
    if not runs:
        return None
    network, spec, device = scorer.network, scorer.spec, scorer.device
    return measure_speed(network, spec, device, scorer.fitting, runs, file, scorer.parameters)


def _explained(subject: Subject, test: Scores, folder: Path) -> tuple[ExplainedImage, ...]:
    count = subject.config.evaluation.explained_images
    if not count:
        return ()
    return explain(
        subject.scorer.network,
        subject.model.architecture,
        test,
        subject.prepared,
        count,
        folder,
        subject.config.data.label_separator,
    )
