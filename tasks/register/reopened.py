"""The MLflow run of a graft run that is resumed: the one that it was begun in, found by a tag."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.config import RunConfig
from tasks.register.client import connect, tracking_errors
from tasks.register.facts import run_tags
from tasks.register.machine import system_metrics
from tasks.register.processes import take_over
from tasks.register.tracking import (
    RunTracker,
    closing,
    find_experiment,
    open_run,
    write_opening_facts,
)
from tasks.retry import with_retries

TOKEN = "graft.token"  # noqa: S105 - a tag's name
SYSTEM = "system/"

log = logging.getLogger(__name__)


@contextmanager
def resumable_run(
    config: RunConfig, token: str, resumed: bool, spool: Path | None = None
) -> Iterator[RunTracker]:
    """Open a run as ``open_run`` does, or, ``resumed``, go on in the one of the same ``token``.

    What is logged there already is not logged again. Where this tracking server has no such run,
    a new one is opened, and that is said. ``spool`` is the file of the metrics that MLflow has not
    taken yet.
    """
    found = with_retries(_find, config, token) if resumed else None
    if found is None:
        if resumed:
            log.warning("the tracking server does not know the run: a new one is opened in MLflow")
        with open_run(config, {TOKEN: token}) as tracker:
            _keep(tracker, spool)
            yield tracker
        return
    client, run_id = connect(), found.info.run_id
    tracker = RunTracker(client, config, run_id, found.info.experiment_id)
    with closing(client, run_id):
        with_retries(_take_up, client, found, tracker)
        there = found.data.params  # none, where it was killed before it wrote them
        with_retries(write_opening_facts, client, run_id, config, there)
        with system_metrics(run_id, again=True), tracker.all_sent():
            _keep(tracker, spool)
            yield tracker


def _keep(tracker: RunTracker, spool: Path | None) -> None:
    if spool is not None:
        tracker.keep_in(spool)


def _find(config: RunConfig, token: str) -> Run | None:
    client = connect()
    with tracking_errors("looking for the run to resume"):
        experiment = find_experiment(client, config.tracking.experiment)
        runs = client.search_runs([experiment], f"tags.`{TOKEN}` = '{token}'", max_results=1)
    return runs[0] if runs else None


def _take_up(client: MlflowClient, run: Run, tracker: RunTracker) -> None:
    """Let a run that was left, be it as it may, be running in this process."""
    run_id = run.info.run_id
    with tracking_errors("going on in the run"):
        for key, value in run_tags().items():
            client.set_tag(run_id, key, value)
        take_over(client, run_id)
    tracker.look(name for name in run.data.metrics if not name.startswith(SYSTEM))
