"""``graft evaluate``: a registered model on the test images of a config, with a report if asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.answer import Answer
from tasks.artifacts import cache_folder, new_folder, user_folder
from tasks.configfile import load_config
from tasks.errors import ConfigError, EvaluationError

if TYPE_CHECKING:
    from tasks.config import RunConfig
    from tasks.evaluate.metrics import Metrics
    from tasks.values import EvaluationReport, PreparedDataset, RawDataset, RegisteredModel

MORE = {"mean_average_precision": "mean AP", "micro_f1": "micro F1", "hamming_loss": "Hamming"}


def evaluate(path: Path, overrides: Sequence[str], uri: str, report: Path | None) -> Answer:
    """Score the model ``uri``; write its whole report into the new folder ``report``, if any.

    Nothing else is written but cache. Raises ``ConfigError`` where ``report`` is there already,
    ``EvaluationError`` where the model has other classes than the data.
    """
    config = load_config(path, overrides)
    target = None if report is None else absent(report, "the report")
    model, prepared = model_and_images(config, uri)
    figures = _figures(config, prepared, model, target)
    return _answer(model, prepared, figures, target)


def absent(folder: Path, what: str) -> Path:
    """Return the folder that a user named for output; raises ``ConfigError`` if it is there."""
    target = user_folder(folder)
    if target.exists():
        raise ConfigError(f"{target} is there already.\nName a new folder for {what}.")
    return target


def model_and_images(config: RunConfig, uri: str) -> tuple[RegisteredModel, PreparedDataset]:
    """Fetch the model ``uri`` and the images of ``config``, packed as the model wants them.

    Raises ``EvaluationError`` where the model has other classes than the data.
    """
    from tasks.download.source import download
    from tasks.preprocess.prepare import prepare
    from tasks.register.registry import fetch

    cache = cache_folder(config.output.cache)
    model = fetch(uri, cache)
    raw = download(config.data, cache)
    _check_labels(model, raw)
    prepared = prepare(config.data, config.seed, raw, model.input, cache)
    _check_classes(model, prepared.classes)
    return model, prepared


def _figures(
    config: RunConfig, prepared: PreparedDataset, model: RegisteredModel, target: Path | None
) -> Metrics | EvaluationReport:
    from tasks.evaluate.evaluate import evaluate as write_report
    from tasks.evaluate.evaluate import score_as_served
    from tasks.evaluate.metrics import measure
    from tasks.register.seen import seen_by_version

    if target is None:
        return measure(score_as_served(config, model, prepared.test), model.classes)
    with new_folder(target.parent, target.name) as folder:
        seen = seen_by_version(model.uri, prepared.test)
        return write_report(config, prepared, model, folder, seen)


def _answer(
    model: RegisteredModel,
    prepared: PreparedDataset,
    figures: Metrics | EvaluationReport,
    target: Path | None,
) -> Answer:
    test = prepared.test
    names = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1")
    data: dict[str, Any] = {"model": model.uri, "n": test.n, "test_digest": test.digest}
    data |= {name: getattr(figures, name) for name in (*names, "log_loss")}
    low, high = 100 * figures.accuracy_low, 100 * figures.accuracy_high
    facts = [
        ("model", model.uri),
        ("accuracy", f"{100 * figures.accuracy:.2f}% of {test.n:,} ({low:.1f} to {high:.1f}%)"),
        ("balanced", f"{100 * figures.balanced_accuracy:.2f}%"),
        ("log loss", f"{figures.log_loss:.4f} nats"),
    ]
    for key, name in MORE.items():
        value = getattr(figures, key)
        if value is not None:
            data[key] = value
            facts.append((name, f"{value:.4f}"))
    if target is not None:
        data["report"] = str(target)
        facts.append(("report", str(target / "report.html")))
    return Answer(data, facts)


def _check_labels(model: RegisteredModel, raw: RawDataset) -> None:
    if model.multi_label != raw.multi_label:
        given = "any number of labels" if model.multi_label else "one label"
        raise EvaluationError(
            f"{model.uri} gives an image {given}.\n"
            f"Evaluate it with data.multi_label={str(model.multi_label).lower()}."
        )


def _check_classes(model: RegisteredModel, classes: tuple[str, ...]) -> None:
    """Compare with the classes that are left of the data, not with all that it declares."""
    if model.classes != classes:
        unknown = sorted(set(classes) ^ set(model.classes))[:5]
        raise EvaluationError(
            f"{model.uri} has other classes than the data: {', '.join(unknown)}.\n"
            "Evaluate on data with the classes it was trained on."
        )
