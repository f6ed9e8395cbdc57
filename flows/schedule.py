"""The order in which the cells of a comparison run, and what came of each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed

from flows.cells import Finished, Work, carry_out, stored
from flows.console import duration
from flows.engines import Engine, open_engine
from flows.failures import describe
from flows.grid import Grid
from flows.inputs import say
from tasks.artifacts import cache_folder
from tasks.compareconfig import Cell, CompareConfig, Place
from tasks.evaluate.comparison import Failure, Figures, Outcome
from tasks.register.nested import ComparisonRun

Result = Finished | Failure


@task(task_run_name="{work.title}", timeout_seconds=30 * 24 * 3600, cache_policy=NO_CACHE)
def run_cell(work: Work, do: Callable[[Work], Finished]) -> Finished:
    """Carry a cell out, here or wherever ``do`` does; never repeated from a cache."""
    return do(work)


class Schedule:
    """Runs the cells, ``config.parallel`` at once, each after its teacher."""

    def __init__(self, config: CompareConfig, folder: Path, run: ComparisonRun) -> None:
        self._cells = config.cells()
        self._parallel = config.parallel
        self._runner = config.runner
        self._folders = (folder, cache_folder(config.base.output.cache))
        self._grid = Grid(config, folder, run.run_id)
        self._run = run
        self._left = list(self._cells)
        self._running: dict[PrefectFuture[Any], tuple[Cell, Work]] = {}
        self._results: dict[Place, Result] = {}
        self._pace = _Pace(len(self._cells))

    def run(self) -> tuple[Outcome, ...]:
        """Return what came of each cell, in the order of the grid.

        A failure is an outcome. Only what stops the whole, such as Ctrl-C, is raised, and ends the
        cells that are running.
        """
        with open_engine(self._runner, self._parallel, self._folders) as engine:
            while self._left or self._running:
                cell = self._next() if len(self._running) < self._parallel else None
                if cell is None:
                    self._collect(engine)
                else:
                    self._begin(cell, engine)
        self._pace.sum_up()
        return tuple(_outcome(cell.place, self._results[cell.place]) for cell in self._cells)

    def _next(self) -> Cell | None:
        """Take the first cell that waits for no other; the config has no circles."""
        for cell in self._left:
            if cell.teacher is None or cell.teacher in self._results:
                self._left.remove(cell)
                return cell
        return None

    def _begin(self, cell: Cell, engine: Engine) -> None:
        done = {p: result for p, result in self._results.items() if isinstance(result, Finished)}
        try:
            work = self._grid.work(cell, done)
        except Exception as error:
            self._end(cell, error)
            return
        before = stored(work)
        if before is not None and work.key in self._run.finished:
            self._results[cell.place] = before
            self._pace.reused()
        else:
            self._running[engine.submit(run_cell, carry_out, work)] = cell, work

    def _collect(self, engine: Engine) -> None:
        """Wait for one of the running cells; one whose process was killed leaves no half folder."""
        future = next(as_completed(list(self._running)))
        cell, work = self._running.pop(future)
        came = engine.outcome(future)
        if not isinstance(came, Finished) and stored(work) is None:
            shutil.rmtree(work.folder, ignore_errors=True)
        self._end(cell, came)

    def _end(self, cell: Cell, came: Finished | BaseException) -> None:
        result = came if isinstance(came, Finished) else Failure(**describe(came).as_dict())
        self._results[cell.place] = result
        self._pace.ran(cell, result)


class _Pace:
    """Says a line a cell, with the time that the rest takes at the pace so far."""

    def __init__(self, cells: int) -> None:
        self._cells, self._reused, self._ran = cells, 0, 0
        self._start = time.monotonic()

    def reused(self) -> None:
        self._reused += 1

    def ran(self, cell: Cell, result: Result) -> None:
        self._ran += 1
        done = self._reused + self._ran
        left = (time.monotonic() - self._start) / self._ran * (self._cells - done)
        words = f"{done}/{self._cells}  {cell.place.title}  {_words(result)}"
        say("compare", f"{words}  {duration(left)} left")

    def sum_up(self) -> None:
        if self._reused:
            say("compare", f"{self._reused} of {self._cells} cells were there already")


def _words(result: Result) -> str:
    if isinstance(result, Failure):
        return f"failed: {result.message.splitlines()[0]}"
    val, test = result.model.val_accuracy, result.report.accuracy
    return f"val {val:.2%}  test {test:.2%}  in {duration(result.model.seconds)}"


def _outcome(place: Place, result: Result) -> Outcome:
    if isinstance(result, Failure):
        return Outcome(**place._asdict(), folder=None, figures=None, failure=result)
    figures = Figures(
        val_accuracy=result.model.val_accuracy,
        test_accuracy=result.report.accuracy,
        seconds=result.model.seconds,
        trainable_parameters=result.model.trainable_parameters,
    )
    return Outcome(**place._asdict(), folder=result.model.folder, figures=figures, failure=None)
