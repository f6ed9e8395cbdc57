"""What Prefect has recorded of a flow run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WAIT = 30  # seconds: task runs are recorded a moment after they have ended

TaskRuns = list[tuple[str, str]]  # name and state of each


def ended(wanted: int) -> Callable[[TaskRuns], bool]:
    """Return what tells whether that many task runs have ended."""
    return lambda runs: sum(state not in ("", "Pending", "Running") for _, state in runs) >= wanted


class Recorded:
    """Asks a server of the flow runs whose names hold a text, and of no others.

    All tests of a worker's process share one server, and so do the keys of their artifacts.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def task_runs(self, flow_run: str, enough: Callable[[TaskRuns], bool]) -> TaskRuns:
        """Return the task runs, asked for until there are ``enough``, for half a minute at most."""
        deadline = time.monotonic() + WAIT
        with self._client(flow_run) as (client, named):
            while True:
                found = client.read_task_runs(flow_run_filter=named)
                runs = [(run.name, run.state_name or "") for run in found]
                if enough(runs) or time.monotonic() > deadline:
                    return runs
                time.sleep(0.2)

    def artifacts(self, flow_run: str) -> list[tuple[str, Any]]:
        """Return the artifacts with their keys."""
        with self._client(flow_run) as (client, named):
            return [(made.key, made) for made in client.read_artifacts(flow_run_filter=named)]

    @contextmanager
    def _client(self, flow_run: str) -> Iterator[tuple[Any, Any]]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
        from prefect.settings import PREFECT_API_URL, temporary_settings

        named = FlowRunFilter(name=FlowRunFilterName(like_=flow_run))
        with temporary_settings({PREFECT_API_URL: self._url}), get_client(sync_client=True) as to:
            yield to, named
