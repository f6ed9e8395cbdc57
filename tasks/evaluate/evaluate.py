"""Score the fine-tuned model on the test split: the one time that it is opened."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from tasks.artifacts import write_atomic
from tasks.config import RunConfig
from tasks.evaluate.assess import Subject, assess, chooses_by_validation, report_of
from tasks.evaluate.calibration import scaled
from tasks.evaluate.card import model_card
from tasks.evaluate.page import html_page
from tasks.evaluate.plots import plot_class_confusion, plot_confusion, plot_learning_curve
from tasks.evaluate.reference import ReferenceSample
from tasks.evaluate.report import markdown, write_predictions
from tasks.evaluate.score import Scores
from tasks.evaluate.scorer import open_scorer
from tasks.measures import Seen
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    PackedSplit,
    PreparedDataset,
    RegisteredModel,
)

log = logging.getLogger(__name__)


def evaluate(
    config: RunConfig,
    prepared: PreparedDataset,
    model: FineTunedModel | RegisteredModel,
    folder: Path,
    seen: Seen | None = None,
) -> EvaluationReport:
    """Write the report into ``folder``: as JSON, Markdown and one HTML page.

    And README.md, a model card, predictions.parquet and the plots; of a model from the registry,
    whose training is over and gone, without its learning curve. Of a new model as well
    reference.safetensors: what ``graft monitor`` holds new images against. How many of the test
    images the model has ``seen`` is for the caller to find out; the report claims no more.

    The network is read back from ``model.safetensors``, so that what is scored is what is
    registered, in float32 on every device. Raises ``EvaluationError`` when the file is not the
    one that training wrote, ``ResourceError`` when memory or disk runs out.
    """
    with open_scorer(config, model) as scorer:
        sample = _sample(config, prepared) if isinstance(model, FineTunedModel) else None
        subject = Subject(config, prepared, model, scorer, sample)
        scores, parts = assess(subject, folder)
    if sample is not None:
        parts["reference"] = sample.write(folder)
    parts["seen"] = seen
    if isinstance(model, FineTunedModel):
        parts["repeatable"] = model.repeatable
    report = report_of(subject, scores, parts, folder)
    _write(config, prepared, model, report, scores)
    log.info("test accuracy %.2f%% on %d images", 100 * report.accuracy, report.n)
    return report


def _sample(config: RunConfig, prepared: PreparedDataset) -> ReferenceSample:
    """Return what takes a reference of all splits that are scored."""
    splits = [prepared.test]
    if chooses_by_validation(config.evaluation):
        splits.append(prepared.val)
    return ReferenceSample(splits, config.seed)


def score_weights(
    config: RunConfig, model: FineTunedModel | RegisteredModel, split: PackedSplit
) -> Scores:
    """Read a model's weights back and score ``split`` with them, its logits as they are.

    Raises ``EvaluationError`` when the file is missing or has another digest, ``ResourceError``
    when memory runs out.
    """
    with open_scorer(config, model) as scorer:
        return scorer.score(split)


def score_as_served(config: RunConfig, model: RegisteredModel, split: PackedSplit) -> Scores:
    """Score ``split`` with a registered model and the temperature that it is served with.

    Raises as ``score_weights``.
    """
    return scaled(score_weights(config, model, split), model.temperature)


def _write(
    config: RunConfig,
    prepared: PreparedDataset,
    model: FineTunedModel | RegisteredModel,
    report: EvaluationReport,
    scores: Scores,
) -> None:
    folder = report.folder
    separator = config.data.label_separator
    write_predictions(scores, prepared, report.predictions, separator)
    if report.confusion:
        plot_confusion(report.confusion, prepared.classes, folder / "confusion")
    elif report.class_confusion is not None:
        plot_class_confusion(report.class_confusion, prepared.classes, folder / "confusion")
    if isinstance(model, FineTunedModel):
        plot_learning_curve(model.history, model.chosen_epoch, folder / "learning_curve")
    write_atomic(folder / "report.md", markdown(config, prepared, model, report).encode())
    write_atomic(folder / "report.html", html_page(config, prepared, model, report).encode())
    write_atomic(folder / "README.md", model_card(config, prepared, model, report).encode())
    write_atomic(report.report, json.dumps(report.model_dump(mode="json"), indent=2).encode())
