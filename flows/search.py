"""A hyperparameter search as one Prefect flow: a task run a trial, one study for many processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from prefect import flow

from flows.artifacts import publish_study
from flows.console import ready_logs
from flows.found import Found
from flows.inputs import images_held
from flows.search_open import open_study
from flows.search_result import look_at
from flows.search_storage import locked
from flows.search_study import Study
from flows.search_turns import Turns
from tasks.artifacts import cache_folder, sha256_parts, user_folder, write_atomic
from tasks.configfile import dump_config
from tasks.evaluate.search import Search
from tasks.evaluate.search_report import best_table, search_markdown, write_search
from tasks.register.searches import SearchRun, closing_search, find_search
from tasks.retry import with_retries
from tasks.searchconfig import SearchConfig
from tasks.use import in_use

BEST = "best.yaml"


@flow(name="search", flow_run_name="{config.name}", validate_parameters=True)
def search(config: SearchConfig) -> Search:
    """Try points of the space until the study has ``config.trials`` trials, by validation alone.

    Any number of these flows work on one study; each goes on until that is whole, and writes the
    report. Leaves a folder with the report and ``best.yaml``, a config for ``graft run``, and an
    MLflow run with one nested in it for each trial. No test image is opened. Raises ``GraftError``
    for what concerns the whole: base, folders, storage, MLflow.
    """
    ready_logs()
    root = user_folder(config.base.output.folder) / config.name
    with images_held():
        found = Found(cache_folder(config.base.output.cache))
        prepared, backbone = found.inputs(config.base)
        identity = sha256_parts(config.identity, prepared.digest, backbone.sha256 or "")
        study = open_study(config, root, identity)
        with in_use([root]), _run_of(config, study, root) as run:
            Turns(config, study, found, run, root).run()
            result = _put_together(config, study, run, root)
    publish_study(
        "search", result.name, partial(search_markdown, result), "trials", best_table(result)
    )
    return result


@contextmanager
def _run_of(config: SearchConfig, study: Study, root: Path) -> Iterator[SearchRun]:
    """Open the MLflow run that the study's processes share, and close it with the block."""
    with ExitStack() as stack:
        with locked(root / ".lock"):
            run = find_search(config, study.run_id())
            stack.enter_context(closing_search(run))
            study.keep_run(run.run_id)
        with_retries(run.describe, config)
        yield run


def _put_together(config: SearchConfig, study: Study, run: SearchRun, root: Path) -> Search:
    with locked(root / ".lock"):  # else the table of one process stands beside another's best
        result = look_at(config, study.optuna, root, run.run_id)
        files = write_search(result, root)
        best = result.best_trial
        if best is not None:
            chosen = config.run_of(best.point)
            write_atomic(root / BEST, dump_config(chosen).encode())
    if best is not None:
        assert best.value is not None
        figures = {
            f"best_{config.metric}": best.value,
            "best_trial": float(best.number),
            "trials": float(len(result.trials)),
        }
        with_retries(run.report, figures, chosen, files)
    return result
