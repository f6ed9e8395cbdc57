"""Marks runs whose process is gone, as a flow: for a schedule, and for automations to start."""

from __future__ import annotations

from prefect import flow
from prefect.client.orchestration import get_client

from flows.console import ready_logs
from flows.inputs import say
from flows.stale_runs import mark_stale

ROOM = "stale"


@flow(name="stale")
def stale() -> list[str]:
    """Mark stale flow runs CRASHED and stale MLflow runs KILLED; return a line for each."""
    ready_logs()
    with get_client(sync_client=True) as client:
        marked = mark_stale(client, say)
    for line in marked or ("every running run is alive",):
        say(ROOM, line)
    return marked
