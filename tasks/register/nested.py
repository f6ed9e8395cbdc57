"""One MLflow run around a comparison; the run of each cell is nested in it by a tag."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from tasks.compareconfig import CompareConfig
from tasks.configfile import dump_config
from tasks.errors import GraftError
from tasks.evaluate.comparison import Comparison, StrategyRow
from tasks.public import public_config, without_secrets
from tasks.register.client import connect, tracking_errors
from tasks.register.facts import finite_metrics, run_tags
from tasks.register.moments import end_run
from tasks.register.processes import take_over
from tasks.register.tracking import closing, find_experiment
from tasks.retry import with_retries

COMPARISON = "graft.comparison"  # tag of the parent: which comparison it is
FOLDER = "graft.folder"  # tag of the parent: in which folder
CELL = "graft.cell"  # tag of a child: which cell it is
PAGE = 500

log = logging.getLogger(__name__)


def child_tags(parent: str, cell: str) -> dict[str, str]:
    """Return the tags that nest the run of ``cell`` in the run ``parent``."""
    return {MLFLOW_PARENT_RUN_ID: parent, CELL: cell}


class ComparisonRun:
    """The parent run; every method raises as those of ``RunTracker``."""

    def __init__(self, client: MlflowClient, run_id: str, finished: frozenset[str]) -> None:
        self.run_id = run_id
        self.finished = finished  # cells whose own run is in MLflow, whole
        self._client = client

    def report(self, comparison: Comparison, files: Sequence[Path]) -> None:
        """Log the figures of every strategy, and the report's files as artifacts."""
        failed = sum(outcome.failure is not None for outcome in comparison.outcomes)
        with tracking_errors("logging the comparison"):
            for row in comparison.rows:
                metrics, _ = finite_metrics(_values(row), int(time.time() * 1000), row.val.n)
                self._client.log_batch(self.run_id, metrics=metrics)
            self._client.set_tag(self.run_id, "graft.supported", comparison.supported or "none")
            self._client.set_tag(self.run_id, "graft.failed_cells", str(failed))
            for file in files:
                self._client.log_artifact(self.run_id, str(file))


@contextmanager
def open_comparison(
    config: CompareConfig, folder: str, cells: frozenset[str] = frozenset()
) -> Iterator[ComparisonRun]:
    """Open the run of a comparison, the same one again when it is gone on with, and close it.

    ``folder`` is a word for the comparison's folder that no other one in the world has, and this
    process works in it alone: others may run the same config on the same server. ``cells`` are
    those that are whole there; by one of them a run is known that an earlier version of graft
    began, which wrote no folder's name into it.

    The run's status tells how the block ended, as with ``open_run``. Cells' runs that nobody
    closed, since their process was killed, are marked KILLED, at the end or at the next start.
    Raises ``TrackingError``.
    """
    client = connect()
    experiment, run_id = with_retries(_open, client, config, folder, cells)
    with closing(client, run_id):
        with_retries(_write_facts, client, run_id, config)
        finished = with_retries(_finished_cells, client, experiment, run_id)
        try:
            yield ComparisonRun(client, run_id, finished)
        finally:
            with suppress(GraftError):  # must neither hide what went wrong nor undo what went well
                _finished_cells(client, experiment, run_id)


def _open(
    client: MlflowClient, config: CompareConfig, folder: str, cells: frozenset[str]
) -> tuple[str, str]:
    with tracking_errors("opening the comparison's run"):
        experiment = find_experiment(client, config.base.tracking.experiment)
        same = runs_with(client, experiment, COMPARISON, config.identity)
        before = [run for run in same if run.data.tags.get(FOLDER) == folder]
        if not before and cells:
            before = _nameless(client, experiment, same, cells)
        if before:
            run_id = str(before[0].info.run_id)
            client.set_tag(run_id, FOLDER, folder)
            take_over(client, run_id)
            return experiment, run_id
        tags = run_tags() | {COMPARISON: config.identity, FOLDER: folder}
        run = client.create_run(experiment, tags=tags, run_name=config.name)
        return experiment, str(run.info.run_id)


def _nameless(
    client: MlflowClient, experiment: str, same: Sequence[Run], cells: frozenset[str]
) -> list[Run]:
    """Return the runs without a folder's name that hold one of ``cells``.

    Says so where none does, but another folder's: those cells come into a second run then.
    """
    known = [run for run in same if cells & _whole(_cells_of(client, experiment, run.info.run_id))]
    found = [run for run in known if FOLDER not in run.data.tags]
    if known and not found:
        log.warning(
            "the comparison begins a new run in MLflow: %s, of the same config, is another "
            "folder's; cells that are finished here are written into the new one",
            known[0].info.run_id,
        )
    return found


def runs_with(client: MlflowClient, experiment: str, tag: str, value: str) -> list[Run]:
    """Return the runs that bear a tag, newest first."""
    words = f"tags.`{tag}` = '{value}'"
    found: list[Run] = []
    token: str | None = None
    while token is None or token:
        page = client.search_runs([experiment], words, max_results=PAGE, page_token=token)
        found += page
        token = page.token or ""
    return found


def _write_facts(client: MlflowClient, run_id: str, config: CompareConfig) -> None:
    names = {
        "datasets": config.datasets,
        "backbones": config.backbones,
        "strategies": config.strategies,
    }
    params = [Param(key, ", ".join(of)[:MAX_PARAM_VAL_LENGTH]) for key, of in names.items()]
    with tracking_errors("logging the comparison's config"):
        client.log_batch(run_id, params=params)
        client.log_text(run_id, dump_config(_public(config)), "comparison.yaml")


def _public(config: CompareConfig) -> CompareConfig:
    changes = {
        name: _without_secrets(getattr(config, name))
        for name in ("datasets", "backbones", "strategies")
    }
    return config.model_copy(update={"base": public_config(config.base), **changes})


def _without_secrets(value: Any) -> Any:  # noqa: ANN401 - any value of a config
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    return without_secrets(value) if isinstance(value, str) else value


def _finished_cells(client: MlflowClient, experiment: str, run_id: str) -> frozenset[str]:
    """Return the cells with a whole run, and close the runs that were left open."""
    with tracking_errors("reading the cells' runs"):
        runs = _cells_of(client, experiment, run_id)
        for run in runs:
            if run.info.status == "RUNNING":
                end_run(client, run.info.run_id, "KILLED")
    return _whole(runs)


def _cells_of(client: MlflowClient, experiment: str, run_id: str) -> list[Run]:
    return runs_with(client, experiment, MLFLOW_PARENT_RUN_ID, run_id)


def _whole(runs: Iterable[Run]) -> frozenset[str]:
    return frozenset(run.data.tags.get(CELL, "") for run in runs if run.info.status == "FINISHED")


def _values(row: StrategyRow) -> dict[str, float]:
    place = f"{row.dataset}/{row.backbone}/{row.strategy}"
    figures: dict[str, float] = {}
    for name, spread in (("val_accuracy", row.val), ("test_accuracy", row.test)):
        figures[f"{place}/{name}_mean"] = spread.mean
        if spread.std is not None:
            figures[f"{place}/{name}_std"] = spread.std
    return figures
