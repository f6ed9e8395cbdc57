"""MLflow runs that are left RUNNING by a process that was killed.

MLflow knows nothing of processes. So each run is opened with two tags: Prefect's flow run, whose
end is the run's end too, and the process, by which this machine alone can tell whether it is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlflow.entities import Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tasks.register.client import connect, tracking_errors
from tasks.register.moments import end_run
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
    search: str | None  # the run that it is a trial of, where that is open too


def find_over(ended: Callable[[str | None], str | None]) -> list[tuple[OpenRun, str]]:
    """Return the open runs that nobody works on any more, and of each why.

    ``ended`` says of a flow run how it ended, None where it did not. A search's run bears the tags
    of the process that joined it last. Where that is gone, another one's trial may be running in it
    still: so it is over when no trial is left that is not, of another flow run than its own. Raises
    ``TrackingError``.
    """
    runs = {run.run_id: run for run in find_open()}
    over: dict[str, str] = {}
    for run in runs.values():
        why = "its process is gone" if run.process_is_gone else ended(run.flow_run)
        if why is not None:
            over[run.run_id] = why
    for trial in runs.values():
        if trial.search is None or trial.run_id in over:
            continue
        if trial.flow_run is None or trial.flow_run != runs[trial.search].flow_run:
            over.pop(trial.search, None)
    return [(runs[run_id], why) for run_id, why in over.items()]


def find_open() -> list[OpenRun]:
    """Return the runs of graft's that MLflow calls RUNNING; raises ``TrackingError``."""
    client = connect(create=False)
    with tracking_errors("looking for open runs"):
        experiments = [one.experiment_id for one in client.search_experiments(ViewType.ACTIVE_ONLY)]
        found = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=LIMIT)
    ours = [run for run in found if PROCESS_TAG in run.data.tags]
    searches = {run.info.run_id for run in ours if SEARCH in run.data.tags}
    return [_open(run, searches) for run in ours]


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
        end_run(client, run_id, "KILLED")
    return True


def _open(run: Run, searches: set[str]) -> OpenRun:
    tags = run.data.tags
    gone, parent = is_gone(tags[PROCESS_TAG]), tags.get(MLFLOW_PARENT_RUN_ID)
    search = parent if parent in searches else None
    return OpenRun(run.info.run_id, run.info.run_name, tags.get(FLOW_RUN_TAG), gone, search)
