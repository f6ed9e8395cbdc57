"""The parts of a report in Markdown, for report.md and the model card: each only where it is."""

from __future__ import annotations

from tasks.evaluate.page_parts import (
    corruption_rows,
    mean_corrupted,
    slice_groups,
    undamaged,
)
from tasks.evaluate.tables import escape_markdown, markdown_table
from tasks.evaluate.wording import (
    NOTHING,
    counted,
    decimals,
    interval,
    percent,
    shown,
    whole_figures,
    wording,
)
from tasks.measures import Curve
from tasks.values import ClassReport, EvaluationReport, PreparedDataset

Row = tuple[str, ...]
OF_SLICE = ("balanced_accuracy", "macro_f1", "log_loss")  # beside the accuracy


def figure_lines(report: EvaluationReport) -> list[str]:
    """Return a table of the figures of the whole test set with their intervals."""
    rows: list[Row] = [
        (wording(one.name).label, shown(one.name, one.value), interval(one.name, one.low, one.high))
        for one in whole_figures(report)
    ]
    return [*markdown_table([("figure", "value", "interval"), *rows]), ""]


def class_lines(report: EvaluationReport) -> list[str]:
    """Return a table of the classes; with several labels an image, with their counts."""
    curves = {curve.name: curve for curve in report.curves}
    head: Row = ("class", "images", "precision", "recall", "F1")
    rows = [_class_row(one) for one in report.classes]
    if curves:
        head += ("ROC AUC", "average precision")
        rows = [
            (*row, *_areas(curves.get(one.name)))
            for row, one in zip(rows, report.classes, strict=True)
        ]
    elif report.multi_label:
        head += ("average precision",)
        rows = [
            (*row, decimals(one.average_precision))
            for row, one in zip(rows, report.classes, strict=True)
        ]
    if report.class_confusion is not None:
        head += ("TN", "FP", "FN", "TP")
        rows = [
            (*row, *(f"{n:,}" for n in four))
            for row, four in zip(rows, report.class_confusion, strict=True)
        ]
    return [*markdown_table([head, *rows]), ""]


def _class_row(one: ClassReport) -> Row:
    return one.name, str(one.n), decimals(one.precision), decimals(one.recall), decimals(one.f1)


def _areas(curve: Curve | None) -> Row:
    if curve is None:
        return NOTHING, NOTHING
    return decimals(curve.roc_auc), decimals(curve.average_precision)


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
                *(shown(name, getattr(one, name)) for name in OF_SLICE),
            )
            for one in slices
        ]
        lines += [*markdown_table([head, *rows]), ""]
    return lines


def trust_lines(report: EvaluationReport) -> list[str]:
    """Return a sentence each on calibration, rejection and novelty."""
    return [*_calibration(report), *_rejection(report), *_novelty(report)]


def _calibration(report: EvaluationReport) -> list[str]:
    fit = report.calibration
    if fit is None:
        return []
    return [
        f"Calibration: temperature {fit.temperature:.3f}, chosen on validation, where the "
        f"calibration error went from {percent(fit.val_ece_before)} to {percent(fit.val_ece)} and "
        f"the log loss from {fit.val_log_loss_before:.4f} to {fit.val_log_loss:.4f}.",
        "",
    ]


def _rejection(report: EvaluationReport) -> list[str]:
    found = report.rejection
    if found is None:
        return []
    if found.threshold > 1:
        return [
            "Rejection: no confidence was shown on validation to keep the error rate among "
            f"answered images at {percent(found.wanted_error)}; no image would be answered.",
            "",
        ]
    return [
        f"Rejection: answering only from a confidence of {found.threshold:.4f} on, chosen on "
        f"validation for an error rate of {percent(found.wanted_error)}, "
        f"{percent(found.test_coverage)} of the test images are answered and "
        f"{percent(found.test_error)} of those are wrong.",
        "",
    ]


def _novelty(report: EvaluationReport) -> list[str]:
    found = report.novelty
    if found is None:
        return []
    return [
        f"Novelty: an energy above {found.threshold:.3f}, which {percent(found.kept)} of the "
        f"validation images stay below, marks {percent(found.test_flagged)} of the test images and "
        f"{percent(found.noise_flagged)} of noise images (AUROC {found.noise_auroc:.4f}).",
        "",
    ]


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
