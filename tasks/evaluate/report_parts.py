"""The parts of a report in Markdown, for report.md and the model card: each only where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from tasks.evaluate.page_parts import (
    corruption_rows,
    mean_corrupted,
    other_slices,
    resampling,
    slice_groups,
    undamaged,
)
from tasks.evaluate.tables import escape_markdown, markdown_table
from tasks.evaluate.trust_words import calibration_words, novelty_words, rejection_words
from tasks.evaluate.wording import (
    NOTHING,
    counted,
    decimals,
    interval,
    percent,
    ranged,
    shown,
    whole_figures,
    wording,
)
from tasks.measures import Estimate, Slice
from tasks.values import ClassReport, EvaluationReport, PreparedDataset

Row = tuple[str, ...]
OF_CLASS = ("precision", "recall", "f1")
OF_CURVE = ("roc_auc", "average_precision")
OF_SLICE = ("balanced_accuracy", "macro_f1", "log_loss")  # beside the accuracy


def figure_lines(report: EvaluationReport) -> list[str]:
    """Return a table of the figures of the whole test set with their intervals."""
    rows: list[Row] = [
        (wording(one.name).label, shown(one.name, one.value), interval(one.name, one.low, one.high))
        for one in whole_figures(report)
    ]
    drawn = resampling(report)
    return [
        *markdown_table([("figure", "value", "interval"), *rows]),
        "",
        *([drawn, ""] if drawn else []),
    ]


def class_lines(report: EvaluationReport) -> list[str]:
    """Return a table of the classes with intervals; with several labels an image, with counts."""
    known = {one.name: one for one in report.estimates}
    curves = {curve.name: curve for curve in report.curves}
    head: Row = ("class", "images", "precision", "recall", "F1")
    rows = [_class_row(one, known) for one in report.classes]
    if curves:
        head += ("ROC AUC", "average precision")
        rows = [
            (*row, *_figures(curves.get(one.name), OF_CURVE, one.name, known))
            for row, one in zip(rows, report.classes, strict=True)
        ]
    elif report.multi_label:
        head += ("average precision",)
        rows = [
            (*row, *_figures(one, OF_CURVE[1:], one.name, known))
            for row, one in zip(rows, report.classes, strict=True)
        ]
    if report.class_confusion is not None:
        head += ("TN", "FP", "FN", "TP")
        rows = [
            (*row, *(f"{n:,}" for n in four))
            for row, four in zip(rows, report.class_confusion, strict=True)
        ]
    return [*markdown_table([head, *rows]), ""]


def _class_row(one: ClassReport, known: Mapping[str, Estimate]) -> Row:
    return (one.name, str(one.n), *_figures(one, OF_CLASS, one.name, known))


def _figures(
    part: object, names: Sequence[str], what: str, known: Mapping[str, Estimate]
) -> Iterator[str]:
    """Yield the named figures of a class, each with its interval if there is one."""
    for name in names:
        yield ranged(getattr(part, name, None), known.get(f"{name}[{what}]"), decimals)


def slice_lines(report: EvaluationReport) -> list[str]:
    """Return a table of the slices of each column, lowest accuracy first."""
    lines: list[str] = []
    for column, slices in slice_groups(report.slices).items():
        head: Row = (column, "images", "accuracy", "interval", "balanced", "macro F1", "log loss")
        rows: list[Row] = [
            (
                one.value,
                f"{one.n:,}",
                percent(one.accuracy),
                interval("accuracy", one.low, one.high),
                *_slice_figures(one),
            )
            for one in slices
        ]
        rest = other_slices(report).get(column)
        lines += [*markdown_table([head, *rows]), "", *([f"{rest}.", ""] if rest else [])]
    return lines


def _slice_figures(one: Slice) -> Iterator[str]:
    known = {estimate.name: estimate for estimate in one.estimates}
    for name in OF_SLICE:
        yield ranged(getattr(one, name), known.get(name), partial(shown, name))


def trust_lines(report: EvaluationReport) -> list[str]:
    """Return a paragraph each on calibration, rejection and novelty."""
    said = {
        "Calibration": report.calibration and calibration_words(report.calibration),
        "Rejection": report.rejection and rejection_words(report.rejection),
        "Novelty": report.novelty and novelty_words(report.novelty),
    }
    return [line for what, words in said.items() if words for line in (f"{what}: {words}", "")]


def robustness_lines(report: EvaluationReport) -> list[str]:
    """Return a table of the accuracy under each corruption by severity."""
    if not report.corruptions:
        return []
    severities = sorted({one.severity for one in report.corruptions} - {0})
    head: Row = ("corruption", *(f"severity {severity}" for severity in severities))
    rows: list[Row] = [
        (name.replace("_", " "), *(percent(row.get(severity)) for severity in severities))
        for name, row in corruption_rows(report.corruptions).items()
    ]
    return [
        f"Mean accuracy {percent(mean_corrupted(report.corruptions))} on "
        f"{report.corruptions[0].n:,} test images that were damaged on purpose; as they are, "
        f"{percent(undamaged(report.corruptions))}.",
        "",
        *markdown_table([head, *rows]),
        "",
    ]


def speed_lines(report: EvaluationReport) -> list[str]:
    """Return what a prediction costs, in a sentence."""
    speed = report.speed
    if speed is None:
        return []
    return [
        f"One image takes {speed.latency_p50_ms:.2f} ms half of the time and "
        f"{speed.latency_p95_ms:.2f} ms in 95 of 100 on {escape_markdown(speed.device)}; in "
        f"batches of {speed.batch_size}, {speed.images_per_second:,.0f} images/s. "
        f"{speed.size_mib:.1f} MiB, {speed.parameters:,} parameters, {speed.gflops:.3f} GFLOPs.",
        "",
    ]


def data_lines(prepared: PreparedDataset) -> list[str]:
    """Return what the checks on the data found, the warnings, and the images left out."""
    notes = [*prepared.warnings, *(f"skipped {one.path}: {one.reason}" for one in prepared.skipped)]
    return [*_checks(prepared), *bullets(notes)]


def _checks(prepared: PreparedDataset) -> list[str]:
    if not prepared.checks:
        return []
    head: Row = ("check", "policy", "result", "found", "left out", "p value", "for example")
    rows: list[Row] = [
        (
            one.name.replace("_", " "),
            one.policy,
            one.status,
            counted(one.found, one.unit),
            f"{one.dropped:,}",
            NOTHING if one.p_value is None else f"{one.p_value:.2g}",
            "; ".join(one.examples),
        )
        for one in prepared.checks
    ]
    return [*markdown_table([head, *rows]), ""]


def bullets(notes: list[str] | tuple[str, ...]) -> list[str]:
    """Return the notes as a list, escaped; nothing where there are none."""
    return [*(f"- {escape_markdown(note)}" for note in notes), ""] if notes else []
