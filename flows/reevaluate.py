"""Score the champion on new labelled images, and alert where it has become worse."""

from __future__ import annotations

from datetime import datetime

from prefect import flow
from prefect.client.schemas.objects import State

from flows.alerts import completed, tell
from flows.console import ready_logs
from flows.inputs import say
from tasks.artifacts import new_folder, user_folder
from tasks.monitorconfig import ReevaluateConfig
from tasks.monitorvalues import ReevaluationReport
from tasks.register.reevaluate import check_accuracy
from tasks.register.watching import open_watch

ALERT = "graft.alert.accuracy"


@flow(name="reevaluate", flow_run_name="{config.name}: {config.model}", validate_parameters=True)
def reevaluate(config: ReevaluateConfig) -> State[ReevaluationReport]:
    """Compare the model's accuracy on new labelled images with that at its registration.

    Leaves a folder with reevaluation.md and reevaluation.json, the same in an MLflow run, and the
    event ``graft.alert.accuracy`` where it is worse by more than the margin. An alert is no
    failure: the flow completes in a state called Alert. Raises the rooms' ``GraftError``; then
    there is no folder.
    """
    ready_logs()
    name = f"{config.name}-reevaluate-{datetime.now():%Y%m%d-%H%M%S}"
    with (
        open_watch(config, "reevaluate") as run,
        new_folder(user_folder(config.output.folder), name) as folder,
    ):
        report = check_accuracy(config, run, folder)
    say("reevaluate", f"{report.n:,} images", report.model)
    tell(report, ALERT, "reevaluation.md")
    return completed(report)
