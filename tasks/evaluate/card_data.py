"""The front matter of a model card in the Hugging Face format, its results in a model-index.

The fields are those of hub-docs' modelcard.md; huggingface_hub reads them back as ``EvalResult``,
the interval of a figure as the arguments of its metric.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tasks.config import DataConfig, RunConfig
from tasks.evaluate.subject import Model
from tasks.evaluate.wording import whole_figures, wording
from tasks.measures import Estimate
from tasks.pretrained.timm_weights import hub_repository
from tasks.public import HIDDEN, without_secrets
from tasks.values import EvaluationReport, FineTunedModel
from tasks.words import printable

TASK = "image-classification"
HUB_METRICS = {"macro_f1": "f1", "micro_f1": "f1", "brier": "brier_score"}  # others: their own name
_TIMM = "timm:"


def card_data(config: RunConfig, model: Model, report: EvaluationReport) -> dict[str, Any]:
    """Return the front matter; the licence is left out, since nobody has said it."""
    figures = whole_figures(report)
    data = {
        "library_name": "graft",
        "pipeline_tag": TASK,
        "tags": ["graft", TASK, "transfer-learning", printable(model.architecture)],
        "base_model": base_model(config, model),
        "datasets": [_slug(dataset_name(config.data))],
        "metrics": list(dict.fromkeys(_metric(one.name) for one in figures)),
        "model-index": [{"name": config.name, "results": list(_results(config, report))}],
    }
    return {key: value for key, value in data.items() if value is not None}


def base_model(config: RunConfig, model: Model) -> str | None:
    """Return the Hugging Face repository that training started from, if it has one."""
    source = config.model.weights
    if not isinstance(model, FineTunedModel) or source is None or not source.startswith(_TIMM):
        return None
    return hub_repository(model.architecture, source)


def dataset_name(data: DataConfig) -> str:
    """Return what the data set is called: its file or folder, without the way to it."""
    if data.path is None:
        return data.kind
    shown = without_secrets(data.path).removesuffix(HIDDEN).rstrip("/")
    return printable(PurePosixPath(shown).stem) or data.kind


def _results(config: RunConfig, report: EvaluationReport) -> Iterator[dict[str, Any]]:
    """Yield the whole test set's figures, then the accuracy of each slice."""
    dataset, confidence = dataset_name(config.data), config.evaluation.confidence
    entries = [_metric_entry(one, confidence) for one in whole_figures(report)]
    yield _result(dataset, None, report.test_digest, entries)
    for one in report.slices:
        accuracy = Estimate(name="accuracy", value=one.accuracy, low=one.low, high=one.high)
        part = printable(f"{one.column}={one.value}")
        yield _result(dataset, part, report.test_digest, [_metric_entry(accuracy, confidence)])


def _result(
    dataset: str, part: str | None, digest: str, metrics: list[dict[str, Any]]
) -> dict[str, Any]:
    named = {"name": dataset, "type": _slug(dataset), "split": "test", "revision": digest}
    return {
        "task": {"type": TASK, "name": "Image Classification"},
        "dataset": named if part is None else {**named, "config": part},
        "metrics": metrics,
    }


def _metric_entry(one: Estimate, confidence: float) -> dict[str, Any]:
    entry = {"type": _metric(one.name), "value": one.value, "name": wording(one.name).label}
    if one.low is None:
        return entry
    return {**entry, "args": {"confidence": confidence, "low": one.low, "high": one.high}}


def _slug(name: str) -> str:
    """Return a name as the hub's identifiers are written."""
    return re.sub(r"[^\w.-]+", "-", name)


def _metric(name: str) -> str:
    return HUB_METRICS.get(name, name)
