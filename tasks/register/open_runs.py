"""MLflow runs that are left RUNNING by a process that was killed.

MLflow knows nothing of processes. So each run is opened with two tags: Prefect's flow run, whose
end is the run's end too, and the process, by which this machine alone can tell whether it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities import Run, ViewType

from tasks.register.client import connect, tracking_errors
from tasks.register.processes import FLOW_RUN_TAG, PROCESS_TAG, is_gone

LIMIT = 1000


@dataclass(frozen=True)
class OpenRun:
    """A run that MLflow calls RUNNING."""

    run_id: str
    name: str
    flow_run: str | None
    process_is_gone: bool  # known so: False also where it cannot be known from here


def find_open() -> list[OpenRun]:
    """Return the runs of graft's that MLflow calls RUNNING; raises ``TrackingError``."""
    client = connect(create=False)
    with tracking_errors("looking for open runs"):
        experiments = [one.experiment_id for one in client.search_experiments(ViewType.ACTIVE_ONLY)]
        found = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=LIMIT)
    return [_open(run) for run in found if PROCESS_TAG in run.data.tags]


def close_open(run_id: str, why: str) -> bool:
    """End a run as KILLED and note why; raises ``TrackingError``.

    Returns False, and changes nothing, where it is not RUNNING any more: its process may have
    closed it, and then ended, since ``find_open`` read its status.
    """
    client = connect(create=False)
    with tracking_errors("closing a run"):
        if client.get_run(run_id).info.status != "RUNNING":
            return False
        client.set_tag(run_id, "graft.error", why)
        client.set_terminated(run_id, "KILLED")
    return True


def _open(run: Run) -> OpenRun:
    tags = run.data.tags
    gone = is_gone(tags[PROCESS_TAG])
    return OpenRun(run.info.run_id, run.info.run_name, tags.get(FLOW_RUN_TAG), gone)
