"""The report as a person reads it, in Markdown, and the predictions as a table."""

from __future__ import annotations

import io
from pathlib import Path

from tasks.artifacts import write_atomic
from tasks.config import RunConfig
from tasks.evaluate.score import Scores
from tasks.index import read_index
from tasks.outputs import confidence, named
from tasks.values import ClassReport, EvaluationReport, FineTunedModel, PreparedDataset
from tasks.words import printable


def write_predictions(
    scores: Scores, prepared: PreparedDataset, path: Path, label_separator: str
) -> None:
    """Write one row an image of the test split: truth, prediction, probabilities.

    Columns: path, label, prediction, correct, confidence, and ``p_CLASS`` for each class; several
    labels of an image are joined by ``label_separator``. Raises ``ResourceError`` when the disk is
    full.
    """
    import pandas as pd

    names = prepared.classes
    separator = label_separator if scores.multi_label else None
    frame = pd.DataFrame(
        {
            "path": [printable(record.path) for record in read_index(prepared.test.index)],
            "label": named(scores.labels_n, names, separator),
            "prediction": named(scores.predictions_n, names, separator),
            "correct": scores.correct_n,
            "confidence": confidence(scores.probabilities_nc, scores.multi_label),
        }
    )
    columns = [f"p_{name}" for name in names]
    probabilities = pd.DataFrame(scores.probabilities_nc, columns=columns)
    content = io.BytesIO()
    pd.concat([frame, probabilities], axis=1).to_parquet(content, index=False)
    write_atomic(path, content.getvalue())


def markdown(
    config: RunConfig,
    prepared: PreparedDataset,
    model: FineTunedModel,
    report: EvaluationReport,
) -> str:
    """Return the report of one run; class names are escaped, since a user chose them."""
    lines = [
        f"# {config.name}",
        "",
        f"Test accuracy **{report.accuracy:.2%}** (95% interval {report.accuracy_low:.2%} to "
        f"{report.accuracy_high:.2%}) on {report.n:,} images that were scored once.",
        *_multi_label_words(report),
        "",
        *markdown_table(_facts(config, prepared, model, report)),
        "",
        "## Classes",
        "",
        *markdown_table(_class_rows(report)),
        "",
        *_notes(prepared),
    ]
    return "\n".join(lines)


def _multi_label_words(report: EvaluationReport) -> list[str]:
    if report.mean_average_precision is None:
        return []
    return [
        "",
        "An image may have several labels: it counts as right when all of them are. Mean average "
        f"precision **{report.mean_average_precision:.4f}**.",
    ]


def _class_rows(report: EvaluationReport) -> list[tuple[str, ...]]:
    head: tuple[str, ...] = ("class", "images", "precision", "recall", "F1")
    rows = [_class_row(row) for row in report.classes]
    if report.class_confusion is None:
        return [head, *rows]
    head += ("average precision", "TN", "FP", "FN", "TP")
    counts = (tuple(f"{n:,}" for n in four) for four in report.class_confusion)
    precisions = (
        "-" if c.average_precision is None else f"{c.average_precision:.3f}" for c in report.classes
    )
    parts = zip(rows, precisions, counts, strict=True)
    return [head, *((*row, precision, *four) for row, precision, four in parts)]


def _class_row(row: ClassReport) -> tuple[str, ...]:
    return row.name, str(row.n), f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}"


def _facts(
    config: RunConfig, prepared: PreparedDataset, model: FineTunedModel, report: EvaluationReport
) -> list[tuple[str, ...]]:
    top5 = "" if report.top5_accuracy is None else f", top-5 {report.top5_accuracy:.2%}"
    return [
        ("what", "value"),
        ("backbone", f"{model.architecture}, weights {config.model.weights}"),
        ("strategy", _strategy(config, model)),
        (
            "images",
            f"train {prepared.train.n:,}, val {prepared.val.n:,}, test {prepared.test.n:,}",
        ),
        ("chosen epoch", f"{model.chosen_epoch} of {model.epochs}, by validation accuracy")
        if config.training.choose == "best"
        else ("chosen epoch", f"{model.chosen_epoch} of {model.epochs}, the last"),
        ("validation accuracy", f"{model.val_accuracy:.2%}"),
        ("balanced accuracy", f"{report.balanced_accuracy:.2%}{top5}"),
        ("macro F1", f"{report.macro_f1:.4f}"),
        *_multi_label_facts(report),
        ("log loss", f"{report.log_loss:.4f} nats"),
        ("training", f"{model.seconds:.1f} s, {model.images_per_second:,.0f} images/s"),
        ("device", f"{model.device}, {model.precision}"),
        ("seed", str(config.seed)),
        ("model digest", model.sha256),
        ("test digest", report.test_digest),
    ]


def _multi_label_facts(report: EvaluationReport) -> list[tuple[str, ...]]:
    if report.micro_f1 is None or report.hamming_loss is None:
        return []
    return [
        ("micro F1", f"{report.micro_f1:.4f}"),
        ("Hamming loss", f"{report.hamming_loss:.4f}, the share of all labels that are wrong"),
    ]


def _strategy(config: RunConfig, model: FineTunedModel) -> str:
    frozen = config.strategy.frozen_stages
    stages = f", first {frozen} stages frozen" if frozen else ""
    share = f"{model.trainable_parameters:,} of {model.parameters:,} parameters train"
    return f"{config.strategy.kind}{stages}: {share}"


def _notes(prepared: PreparedDataset) -> list[str]:
    notes = list(prepared.warnings)
    notes += [f"skipped {skipped.path}: {skipped.reason}" for skipped in prepared.skipped]
    if not notes:
        return []
    return ["## Notes on the data", "", *(f"- {escape_markdown(note)}" for note in notes), ""]


def markdown_table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table whose first row is its head; cells are escaped."""
    lines = ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def escape_markdown(text: str) -> str:
    """Return ``text`` as one line that Markdown shows as it is."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(character, entity)
    return text.replace("\n", " ").replace("`", "&#96;")
