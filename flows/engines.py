"""Where pieces of work are done, several at once: this process, a pool of processes, or Ray.

Whoever uses an engine defines a Prefect task of two parameters, ``work`` and ``do``, which returns
``do(work)``: Prefect shows a task run a piece, and the engine decides where ``do`` is carried out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import torch
from prefect import Task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed

from flows.pool import Pool, open_pool
from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.runnerconfig import RunnerConfig

Do = Callable[[Any], Any]  # a function of a module, so that any process finds it by its name


class Engine(ABC):
    """Carries work out; what it has not finished when it is closed by an error is ended."""

    @abstractmethod
    def submit(self, task: Task[..., Any], do: Do, given: Any) -> PrefectFuture[Any]:  # noqa: ANN401
        """Begin ``task(work=given, do=...)`` so that ``do(given)`` is carried out by the engine.

        ``given`` and what comes back are values that can be pickled.
        """

    def outcome(self, future: PrefectFuture[Any]) -> Any:  # noqa: ANN401 - what ``do`` returned
        """Wait for a piece of work; return its result, or the ``Exception`` that it ended with."""
        future.wait()
        return future.result(raise_on_failure=False)


@contextmanager
def open_engine(
    runner: RunnerConfig, parallel: int, folders: Sequence[Path] = (), *, tracked: bool = True
) -> Iterator[Engine]:
    """Give the engine that ``runner`` names; ``parallel`` pieces of work at once are its user's.

    ``folders`` are those that the work reads and writes, and ``tracked`` says that it writes into
    MLflow: every machine of a cluster must reach them, which is looked at before any work. Raises
    ``ConfigError`` and ``ResourceError`` for a cluster that cannot be used.
    """
    if runner.kind == "ray":
        from flows.ray_engine import open_ray

        with open_ray(runner, folders, tracked) as engine:
            yield engine
    elif parallel == 1:
        yield Here()
    else:
        with open_pool(parallel) as pool:
            yield Processes(pool)


def each_done(
    engine: Engine, task: Task[..., Any], do: Do, works: Sequence[Any], parallel: int
) -> Iterator[tuple[int, Any]]:
    """Carry ``works`` out, ``parallel`` at once; yield each one's place and result when it is done.

    Raises the first error that one of them ends with.
    """
    left = list(enumerate(works))
    running: dict[PrefectFuture[Any], int] = {}
    while left or running:
        if left and len(running) < parallel:
            place, given = left.pop(0)
            running[engine.submit(task, do, given)] = place
            continue
        future = next(as_completed(list(running)))
        place, came = running.pop(future), engine.outcome(future)
        if isinstance(came, BaseException):
            raise came
        yield place, came


class Here(Engine):
    """Does the work in this process, before ``submit`` returns."""

    def submit(self, task: Task[..., Any], do: Do, given: Any) -> PrefectFuture[Any]:  # noqa: ANN401
        """Do it now; raises what ends this process, such as Ctrl-C, which is no failure of it."""
        state: Any = task(work=given, do=do, return_state=True)  # it is no coroutine
        came = state.result(raise_on_failure=False)
        if isinstance(came, BaseException) and not isinstance(came, Exception):
            raise came
        return Done(state)


class Processes(Engine):
    """Does the work in a pool of processes of this machine."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def submit(self, task: Task[..., Any], do: Do, given: Any) -> PrefectFuture[Any]:  # noqa: ANN401
        """Begin it in a thread, which waits for a process."""
        return task.submit(work=given, do=partial(self._pool.carry_out, do))


class Done(PrefectFuture[Any]):
    """What ``Here`` gives back: a task run that has ended."""

    def __init__(self, state: State[Any]) -> None:
        self._final_state = state

    @property
    def task_run_id(self) -> UUID:
        """Return the id of the task run."""
        found = self.state.state_details.task_run_id
        assert found is not None
        return found

    @property
    def state(self) -> State[Any]:
        """Return the state that the task run ended in."""
        assert self._final_state is not None
        return self._final_state

    def wait(self, timeout: float | None = None) -> None:
        """Return at once."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:  # noqa: ANN401
        """Return the result, or the error where it is not to be raised."""
        return self.state.result(raise_on_failure=raise_on_failure)

    def add_done_callback(self, fn: Callable[[PrefectFuture[Any]], None]) -> None:
        """Call ``fn`` at once."""
        fn(self)


def fitted(config: RunConfig, runner: RunnerConfig, parallel: int) -> RunConfig:
    """Return ``config`` with its share of the CPU, and a cache that any folder can start from.

    A piece of work on Ray has the threads of the processors that it reserves; here those that run
    at once divide the machine. What the user sets stays.
    """
    if runner.kind == "ray" and config.output.cache is not None:
        output = config.output.model_copy(update={"cache": cache_folder(config.output.cache)})
        config = config.model_copy(update={"output": output})
    threads = config.training.threads
    if threads is None and runner.kind == "ray":
        threads = max(1, int(runner.cpus))
    elif threads is None and parallel > 1:
        threads = max(1, torch.get_num_threads() // parallel)
    training = config.training.model_copy(update={"threads": threads})
    return config.model_copy(update={"training": training})
