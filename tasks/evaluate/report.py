"""The report as a person reads it, in Markdown, and the predictions as a table."""

from __future__ import annotations

import io
from pathlib import Path

from tasks.artifacts import write_atomic
from tasks.config import RunConfig
from tasks.evaluate import report_parts as parts
from tasks.evaluate.score import Scores
from tasks.evaluate.seen_words import near_words, seen_words
from tasks.evaluate.subject import Model, subject_facts
from tasks.evaluate.tables import markdown_table
from tasks.index import read_index
from tasks.outputs import confidence, named
from tasks.values import EvaluationReport, FineTunedModel, PreparedDataset
from tasks.words import printable


def write_predictions(
    scores: Scores, prepared: PreparedDataset, path: Path, label_separator: str
) -> None:
    """Write one row an image of the test split: truth, prediction, probabilities.

    Columns: path, label, prediction, correct, confidence, sha256 (of the image file), and
    ``p_CLASS`` for each class; several labels of an image are joined by ``label_separator``.
    Raises ``ResourceError`` when the disk is full.
    """
    import pandas as pd

    names = prepared.classes
    separator = label_separator if scores.multi_label else None
    records = read_index(prepared.test.index)
    frame = pd.DataFrame(
        {
            "path": [printable(record.path) for record in records],
            "label": named(scores.labels_n, names, separator),
            "prediction": named(scores.predictions_n, names, separator),
            "correct": scores.correct_n,
            "confidence": confidence(scores.probabilities_nc, scores.multi_label),
            "sha256": [record.sha256 for record in records],
        }
    )
    columns = [f"p_{name}" for name in names]
    probabilities = pd.DataFrame(scores.probabilities_nc, columns=columns)
    content = io.BytesIO()
    pd.concat([frame, probabilities], axis=1).to_parquet(content, index=False)
    write_atomic(path, content.getvalue())


def markdown(
    config: RunConfig, prepared: PreparedDataset, model: Model, report: EvaluationReport
) -> str:
    """Return the report of one run; what a user chose is escaped, what is missing left out."""
    sections = {
        "Figures": parts.figure_lines(report),
        "Classes": parts.class_lines(report),
        "Slices": parts.slice_lines(report),
        "Calibration, rejection and novelty": parts.trust_lines(report),
        "Robustness": parts.robustness_lines(report),
        "Speed": parts.speed_lines(report),
        "Notes on the data": parts.data_lines(prepared),
        "What training decided on its way": _decided(model),
    }
    lines = [
        f"# {config.name}",
        "",
        f"Test accuracy **{report.accuracy:.2%}** (95% interval {report.accuracy_low:.2%} to "
        f"{report.accuracy_high:.2%}) on {report.n:,} images: {seen_words(report.seen)}. "
        f"{near_words(prepared, model)}",
        *_multi_label_words(report),
        "",
        *markdown_table([("what", "value"), *subject_facts(config, prepared, model, report)]),
        "",
    ]
    for title, content in sections.items():
        lines += [f"## {title}", "", *content] if content else []
    return "\n".join(lines)


def _multi_label_words(report: EvaluationReport) -> list[str]:
    if report.mean_average_precision is None:
        return []
    return [
        "",
        "An image may have several labels: it counts as right when all of them are. Mean average "
        f"precision **{report.mean_average_precision:.4f}**.",
    ]


def _decided(model: Model) -> list[str]:
    return parts.bullets(model.notes) if isinstance(model, FineTunedModel) else []
