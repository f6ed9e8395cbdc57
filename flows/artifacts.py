"""What a run leaves in Prefect's own pages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from tasks.evaluate.tables import escape_markdown, markdown_cells
from tasks.register.pages import file_page
from tasks.register.tracking import RunTracker
from tasks.values import EvaluationReport, PromotionDecision

PAGE = "report.html"

log = logging.getLogger(__name__)


def publish(report: EvaluationReport, decision: PromotionDecision, tracker: RunTracker) -> None:
    """Put the report, a link to its page, and the figures of each class into the Prefect UI.

    As far as that is there: the run is done, and what goes wrong here is but a warning.
    """
    unsaid = None if report.multi_label else {"average_precision"}
    rows = markdown_cells(row.model_dump(exclude=unsaid) for row in report.classes)
    verdict = f"\n## Promotion\n\n`{decision.uri}`: {escape_markdown(decision.reason)}\n"
    about = f"{decision.uri} on its test images"
    try:
        text = (report.folder / "report.md").read_text()
        create_markdown_artifact(text + verdict, key="report", description=decision.uri)
        create_link_artifact(
            page_link(report, tracker), "report", key="report-page", description=about
        )
        create_table_artifact(rows, key="classes", description=about)
    except Exception as error:  # whatever it is, the decision stands
        log.warning("the report is not in the Prefect UI: %s", error)


def publish_study(
    what: str, name: str, text: Callable[[], str], key: str, table: Sequence[Sequence[str]]
) -> None:
    """Put a study's report, and its table under ``key``, into the Prefect UI, as far as that is.

    ``what`` is the kind of study, and the report's key; the table's first row is its head.
    """
    head, *rows = table
    cells = markdown_cells(dict(zip(head, row, strict=True)) for row in rows)
    try:
        create_markdown_artifact(text(), key=what, description=name)
        create_table_artifact(cells, key=key, description=name)
    except Exception as error:  # whatever it is, the study is done and its figures stand
        log.warning("the %s is not in the Prefect UI: %s", what, error)


def page_link(report: EvaluationReport, tracker: RunTracker) -> str:
    """Return the address of the report's page: at the tracking server, else the file's own."""
    page = file_page(tracker.experiment_id, tracker.run_id, PAGE)
    return (report.folder / PAGE).as_uri() if page is None else page
