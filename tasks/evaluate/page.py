"""The report as one HTML page that needs nothing beside itself: no network and no JavaScript."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.evaluate import charts, page_parts, trust_words, wording
from tasks.evaluate.seen_words import seen_words
from tasks.evaluate.subject import Model, subject_facts
from tasks.finetune.progress import read_history
from tasks.public import public_config
from tasks.values import EvaluationReport, FineTunedModel, PreparedDataset
from tasks.words import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("report_page")
TITLES = {  # of the sections, in their order; each is a template
    "figures": "Figures",
    "confusion": "Confusion",
    "classes": "Classes",
    "slices": "Slices",
    "calibration": "Calibration",
    "curves": "ROC and precision over recall",
    "errors": "Worst errors",
    "robustness": "Robustness",
    "rejection": "Rejection",
    "novelty": "Novelty",
    "speed": "Speed and size",
    "data": "Data",
    "subject": "What was scored",
}


def html_page(
    config: RunConfig, prepared: PreparedDataset, model: Model, report: EvaluationReport
) -> str:
    """Return the page; what the report does not hold has no section.

    Whatever a user chose is escaped by the template, and the page forbids itself, by its content
    security policy, to run a script or to load anything. Raises ``OSError`` when the history or an
    explained image cannot be read, ``ValueError`` when the history is damaged.
    """
    content = _content(config, prepared, model, report)
    sections = {key: title for key, title in TITLES.items() if _present(key, content)}
    return _environment().get_template("report.html").render(content, sections=sections)


def _content(
    config: RunConfig, prepared: PreparedDataset, model: Model, report: EvaluationReport
) -> dict[str, Any]:
    """Return what the templates show, by the names they use."""
    estimates = {estimate.name: estimate for estimate in report.estimates}
    ece = estimates.get("ece")
    return {
        "config": config,
        "config_lines": _lines(dump_config(public_config(config))),
        "prepared": prepared,
        "model": model,
        "trained": isinstance(model, FineTunedModel),
        "report": report,
        "facts": subject_facts(config, prepared, model, report),
        "figures": wording.whole_figures(report),
        "resampling": page_parts.resampling(report),
        "calibration_error": None if ece is None else ece.value,
        "weakest_class": page_parts.weakest_class(report),
        "weakest_slice": page_parts.weakest_slice(report),
        "rows": page_parts.class_rows(report),
        "matrix": page_parts.matrix_rows(report),
        "pairs": page_parts.confused_pairs(report),
        "other_slices": page_parts.other_slices(report),
        "slice_groups": page_parts.slice_groups(report.slices),
        "shown_pictures": page_parts.pictures(report),
        "corruption_rows": page_parts.corruption_rows(report.corruptions),
        "severities": sorted({one.severity for one in report.corruptions} - {0}),
        "undamaged": page_parts.undamaged(report.corruptions),
        "mean_corrupted": page_parts.mean_corrupted(report.corruptions),
        **_charts(model, report),
    }


def _charts(model: Model, report: EvaluationReport) -> dict[str, Any]:
    """Return the charts as markup: matplotlib wrote it, and no word in it is a user's."""
    from markupsafe import Markup

    drawn, grey = page_parts.drawn_curves(report)
    found: dict[str, Any] = {"drawn": drawn, "grey": grey, "learning": {}, "reliability": None}
    if drawn:
        found["roc"] = Markup(charts.roc_chart(drawn, grey))  # noqa: S704 - no word of a user's
        found["precision_recall"] = Markup(  # noqa: S704 - as above
            charts.precision_recall_chart(drawn, grey)
        )
    if report.reliability:
        chart = charts.reliability_chart(report.reliability, report.multi_label)
        found["reliability"] = Markup(chart)  # noqa: S704 - as above
    if isinstance(model, FineTunedModel):
        records = read_history(model.history)
        found["learning"] = {
            name: Markup(charts.learning_curve(records, name, model.chosen_epoch))  # noqa: S704 - as above
            for name in ("loss", "accuracy")
        }
    return found


def _present(section: str, content: Mapping[str, Any]) -> bool:
    report: EvaluationReport = content["report"]
    wanted = {
        "confusion": report.confusion or report.confused,
        "slices": report.slices,
        "calibration": report.calibration or report.reliability,
        "curves": content["drawn"],
        "errors": report.explained,
        "robustness": report.corruptions,
        "rejection": report.rejection,
        "novelty": report.novelty,
        "speed": report.speed,
    }
    return bool(wanted.get(section, True))


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals["most_rows"] = page_parts.MOST_ROWS  # macros see no other variable
    environment.filters |= {
        "percent": wording.percent,
        "counted": wording.counted,
        "shown": wording.shown,
        "interval": wording.interval,
        "wording": wording.wording,
        "three": wording.decimals,
        "seen_words": seen_words,
        "calibration_words": trust_words.calibration_words,
        "rejection_words": trust_words.rejection_words,
        "novelty_words": trust_words.novelty_words,
    }
    return environment


def _finalize(value: object) -> object:
    """Make text printable; what is markup already stays as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _lines(text: str) -> object:
    """Return text of several lines, each printable, for a pre element."""
    from markupsafe import Markup

    return Markup("\n").join(printable(line) for line in text.splitlines())
