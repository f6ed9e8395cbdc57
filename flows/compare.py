"""A grid of runs as one Prefect flow: a task run a cell, gone on with where it was stopped."""

from __future__ import annotations

import fcntl
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

from prefect import flow

from flows.artifacts import publish_study
from flows.cells import RESULT
from flows.console import ready_logs
from flows.inputs import images_held
from flows.schedule import Schedule
from tasks.artifacts import disk_errors, user_folder, write_atomic
from tasks.compareconfig import CompareConfig
from tasks.errors import ConfigError
from tasks.evaluate.comparison import Comparison, Outcome, strategy_rows
from tasks.evaluate.comparison_report import comparison_markdown, table, write_comparison
from tasks.evaluate.supported import overall_rows, supported
from tasks.register.nested import open_comparison
from tasks.retry import with_retries

IDENTITY = 12  # hex digits of a comparison's digest in its folder's name
NAME = ".comparison"  # a file with the name that the folder has in MLflow

log = logging.getLogger(__name__)


@flow(name="compare", flow_run_name="{config.name}", validate_parameters=True)
def compare(config: CompareConfig) -> Comparison:
    """Run every cell of the grid that ``config`` describes and put their figures side by side.

    A cell that an earlier start has finished is not run again, and one that fails stops no other:
    its error stands in the table. Leaves a folder with the report, a folder a cell, and an MLflow
    run with one nested in it for each cell; no model is registered. Raises ``GraftError`` for what
    concerns the whole: the folders, MLflow.
    """
    ready_logs()
    root = user_folder(config.base.output.folder) / config.name
    with (
        images_held(),
        _alone(root) as name,
        open_comparison(config, name, _whole_cells(root)) as run,
    ):
        outcomes = Schedule(config, root / "cells", run).run()
        folder = root / config.identity[:IDENTITY]
        comparison = _put_together(config, folder, run.run_id, outcomes)
        write_comparison(comparison, folder)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        with_retries(run.report, comparison, files)
    publish_study(
        "comparison",
        comparison.name,
        partial(comparison_markdown, comparison),
        "strategies",
        table(comparison.rows),
    )
    return comparison


@contextmanager
def _alone(root: Path) -> Iterator[str]:
    """Let one process at a time work on a comparison; raises ``ConfigError`` in a second one.

    Yields a name for the folder that no other one has.
    """
    with disk_errors(str(root)):
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"The comparison in {root} is running already.\nWait for it, or set another name."
            ) from error
        yield _name_of(root)


def _name_of(root: Path) -> str:
    """Return the name that the folder was given by whoever had the lock first.

    It has a file of its own: a search of the same name takes the same lock, and empties that file.
    One that is damaged is replaced, which is said: its run in MLflow is not found again.
    """
    path = root / NAME
    with disk_errors(str(path)):
        held = path.read_bytes().strip() if path.exists() else b""
    if re.fullmatch(rb"[0-9a-f]{32}", held):
        return held.decode()
    if held:
        log.warning("%s is damaged: the comparison goes on in a new run in MLflow", path)
    name = uuid4().hex
    write_atomic(path, name.encode())
    return name


def _whole_cells(root: Path) -> frozenset[str]:
    return frozenset(path.parent.name for path in root.glob(f"cells/*/{RESULT}"))


def _put_together(
    config: CompareConfig, folder: Path, run_id: str, outcomes: tuple[Outcome, ...]
) -> Comparison:
    rows = strategy_rows(outcomes, config.reference)
    overall = overall_rows(rows, outcomes, config.reference)
    return Comparison(
        name=config.name,
        folder=folder,
        run_id=run_id,
        reference=config.reference,
        seeds=config.seeds,
        outcomes=outcomes,
        rows=rows,
        overall=overall,
        cost_limit=config.cost_limit,
        supported=supported(overall, config.reference, config.cost_limit),
    )
