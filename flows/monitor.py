"""Watch for drift: unlabelled new images against those that the champion was measured on."""

from __future__ import annotations

from datetime import datetime

from prefect import flow
from prefect.client.schemas.objects import State

from flows.alerts import completed, tell
from flows.console import ready_logs
from flows.inputs import say
from tasks.artifacts import new_folder, user_folder
from tasks.monitorconfig import MonitorConfig
from tasks.monitorvalues import DriftReport
from tasks.register.monitor import check_drift
from tasks.register.watching import open_watch

ALERT = "graft.alert.drift"


@flow(name="monitor", flow_run_name="{config.name}: {config.model}", validate_parameters=True)
def monitor(config: MonitorConfig) -> State[DriftReport]:
    """Test whether new images look like those that the model was measured on.

    Leaves a folder with drift.md, drift.json and a picture, the same in an MLflow run, and the
    event ``graft.alert.drift`` where they do not. An alert is no failure: the flow completes in a
    state called Alert. Raises the rooms' ``GraftError``; then there is no folder.
    """
    ready_logs()
    name = f"{config.name}-monitor-{datetime.now():%Y%m%d-%H%M%S}"
    with (
        open_watch(config, "monitor") as run,
        new_folder(user_folder(config.output.folder), name) as folder,
    ):
        report = check_drift(config, run, folder)
    say("monitor", f"{report.n:,} images against {report.reference_n:,}", report.model)
    tell(report, ALERT, "drift.md")
    return completed(report)
