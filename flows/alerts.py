"""How an alert leaves a check: a warning, an event that automations wait for, and a state's words.

The flow itself completes: an alert is what it is there to find, not a fault.
"""

from __future__ import annotations

import logging
from typing import TypeVar

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from flows.notify import resource_of
from tasks.monitorvalues import WatchReport
from tasks.register.pages import file_page

log = logging.getLogger(__name__)

Report = TypeVar("Report", bound=WatchReport)


def tell(report: WatchReport, event: str, page: str) -> None:
    """Log what a check found, send ``event`` where it is an alert, and show ``page`` in Prefect.

    ``page`` is the Markdown file in the check's folder. As far as Prefect is there: the check is
    done, and what goes wrong here is but a warning.
    """
    level = logging.WARNING if report.alert else logging.INFO
    log.log(level, "%s%s", "ALERT: " if report.alert else "", report.reason)
    text = (report.folder / page).read_text()
    try:
        if report.alert:
            _send(report, event)
        create_markdown_artifact(text, key=page.removesuffix(".md"), description=report.model)
        link = file_page(report.experiment_id, report.run_id, page)
        create_link_artifact(
            (report.folder / page).as_uri() if link is None else link,
            "report",
            key=f"{page.removesuffix('.md')}-page",
            description=report.model,
        )
    except Exception as error:  # whatever it is, the check is done
        log.warning("the check is not in the Prefect UI: %s", error)


def _send(report: WatchReport, event: str) -> None:
    name, version = report.model.removeprefix("models:/").split("/")
    emit_event(
        event,
        resource=resource_of(name) | {"graft.version": version},
        payload={
            "reason": report.reason,
            "model": report.model,
            "check": report.name,
            "images": report.n,
            "mlflow_run_id": report.run_id,
            "false_alarms_a_year": report.false_alarms_a_year,
        },
    )


def completed(report: Report) -> State[Report]:
    """Return the state that a check ends in: completed, with an alert in its message."""
    words = f"ALERT: {report.reason}" if report.alert else report.reason
    name = "Alert" if report.alert else None
    return Completed(name=name, message=words, data=report)
