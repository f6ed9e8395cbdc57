"""MLflow runs that are left RUNNING by a process that was killed.

MLflow knows nothing of processes. So each run is opened with two tags: Prefect's flow run, whose
end is the run's end too, and the process, by which this machine alone can tell whether it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlflow.entities import Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tasks.register.client import connect, tracking_errors
from tasks.register.processes import FLOW_RUN_TAG, PROCESS_TAG, is_gone
from tasks.register.searches import SEARCH

LIMIT = 1000


@dataclass(frozen=True)
class OpenRun:
    """A run that MLflow calls RUNNING."""

    run_id: str
    name: str
    flow_run: str | None
    process_is_gone: bool  # known so: False also where it cannot be known from here


def find_open() -> list[OpenRun]:
    """Return the runs of graft's that MLflow calls RUNNING; raises ``TrackingError``.

    A search's run bears the tags of the process that joined it last. Where that is gone, another
    one's trial may be running in it still: then neither process nor flow run say that it is over.
    """
    client = connect(create=False)
    with tracking_errors("looking for open runs"):
        experiments = [one.experiment_id for one in client.search_experiments(ViewType.ACTIVE_ONLY)]
        found = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=LIMIT)
    ours = {run.info.run_id: run for run in found if PROCESS_TAG in run.data.tags}
    shared = _searches_gone_on_with(ours)
    opened = [_open(run) for run in ours.values()]
    return [
        replace(run, flow_run=None, process_is_gone=False) if run.run_id in shared else run
        for run in opened
    ]


def _searches_gone_on_with(ours: dict[str, Run]) -> set[str]:
    """Return the searches with a trial of another process or flow run than they name."""
    shared = set()
    for trial in ours.values():
        search = ours.get(trial.data.tags.get(MLFLOW_PARENT_RUN_ID, ""))
        if search is not None and SEARCH in search.data.tags:
            own, whole = _open(trial), _open(search)
            same_flow_run = own.flow_run is not None and own.flow_run == whole.flow_run
            if not own.process_is_gone and not same_flow_run:
                shared.add(whole.run_id)
    return shared


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
