"""One MLflow run around a search, which several processes share; each trial's is nested in it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.public import public_config
from tasks.register.client import connect, tracking_errors
from tasks.register.facts import finite_metrics, run_tags
from tasks.register.moments import end_run
from tasks.register.nested import runs_with
from tasks.register.processes import take_over
from tasks.register.registry import NOTHING_THERE
from tasks.register.tracking import closing, find_experiment
from tasks.retry import with_retries
from tasks.searchconfig import SearchConfig

SEARCH = "graft.search"  # tag of the parent: which search it is
TRIAL = "graft.trial"  # tag of a child: its number in the study


def trial_tags(parent: str, number: int) -> dict[str, str]:
    """Return the tags that nest the run of a trial in the run ``parent``."""
    return {MLFLOW_PARENT_RUN_ID: parent, TRIAL: str(number)}


class SearchRun:
    """The parent run; every method raises as those of ``RunTracker``."""

    def __init__(self, client: MlflowClient, experiment: str, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._experiment = experiment

    def describe(self, config: SearchConfig) -> None:
        """Log what is searched and how, with the config, without secrets."""
        _write_facts(self._client, self.run_id, config)

    def close_trials(self, numbers: Sequence[int], why: str) -> None:
        """End the runs of trials whose process was killed: nobody else will."""
        wanted = {str(number) for number in numbers}
        with tracking_errors("closing the runs of trials"):
            for run in runs_with(self._client, self._experiment, MLFLOW_PARENT_RUN_ID, self.run_id):
                if run.data.tags.get(TRIAL) in wanted and run.info.status == "RUNNING":
                    self._client.set_tag(run.info.run_id, "graft.error", why)
                    end_run(self._client, run.info.run_id, "KILLED")

    def report(self, figures: Mapping[str, float], best: RunConfig, files: Sequence[Path]) -> None:
        """Log the figures of a search, its best config without secrets, and the report's files."""
        metrics, _ = finite_metrics(figures, int(time.time() * 1000), 0)
        with tracking_errors("logging the search"):
            self._client.log_batch(self.run_id, metrics=metrics)
            self._client.log_text(self.run_id, dump_config(public_config(best)), "best.yaml")
            for file in files:
                self._client.log_artifact(self.run_id, str(file))


def find_search(config: SearchConfig, known: str | None) -> SearchRun:
    """Return the run ``known`` of a search that is gone on with, or a new one without one.

    The run is open then: enter ``closing_search`` at once. One that MLflow has no more gets a
    successor. Two processes at once could make two: callers take turns. Raises ``TrackingError``.
    """
    return with_retries(_find, connect(), config, known)


@contextmanager
def closing_search(run: SearchRun) -> Iterator[None]:
    """Close the run with the status that tells how the block ended; of several the last counts."""
    with closing(connect(), run.run_id):
        yield


def _find(client: MlflowClient, config: SearchConfig, known: str | None) -> SearchRun:
    with tracking_errors("opening the search's run"):
        experiment = find_experiment(client, config.base.tracking.experiment)
        if known is not None and _is_there(client, known):
            run_id = known
            take_over(client, run_id)
        else:
            tags = run_tags() | {SEARCH: config.identity}
            run_id = str(client.create_run(experiment, tags=tags, run_name=config.name).info.run_id)
    return SearchRun(client, experiment, run_id)


def _is_there(client: MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    except MlflowException as error:
        if error.error_code not in NOTHING_THERE:
            raise
        return False


def _write_facts(client: MlflowClient, run_id: str, config: SearchConfig) -> None:
    facts = {
        "space": ", ".join(config.space),
        "metric": config.metric,
        "sampler": config.sampler,
        "pruner": config.pruner,
        "seed": str(config.seed),
    }
    params = [Param(key, value[:MAX_PARAM_VAL_LENGTH]) for key, value in facts.items()]
    public = config.model_copy(update={"base": public_config(config.base)})
    with tracking_errors("logging the search's config"):
        client.log_batch(run_id, params=params)
        client.log_text(run_id, dump_config(public), "search.yaml")
