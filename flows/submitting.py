"""``graft submit``: a run on a worker, with its log on this terminal and its exit code here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.answer import Answer
from flows.deployed import deployment_of, queue_of
from flows.outcome import problem_of
from flows.server import named_server
from tasks.configfile import load_config
from tasks.public import check_no_secrets

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, Log

FLOW = "transfer"
POLL_SECONDS = 1.0
STRAGGLING = 5.0  # seconds that a worker's last lines may take: it sends them every two
LINGERING = 1.0  # and lines of other threads, once the line has come that Prefect ends a log with
LAST = ("prefect.flow_runs", "Finished in state")
OVERLAP = timedelta(seconds=10)  # lines of several threads do not come in order
PAGE = 200  # lines; the most that Prefect gives at once
OURS = ("tasks.", "flows.")
ROOMS = {"console": "finetune", "inputs": "data"}  # who speaks for which room

Say = Callable[[str, str], None]


def submit(
    path: Path, overrides: Sequence[str], follow: bool, say: Say
) -> tuple[Answer, FlowRun | None]:
    """Start ``transfer`` on a worker with a config, and follow it to its end.

    ``say`` is given each line as room and message. Returns the answer, whose problem is that of the
    run, and the run where Ctrl-C left it going. Raises ``ConfigError``, and ``TrackingError``
    without a server or a deployment.
    """
    config = load_config(path, overrides)
    check_no_secrets(config)
    with named_server():
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            deployment = deployment_of(client, FLOW, config)
            run = client.create_flow_run_from_deployment(
                deployment.id,
                parameters={"config": config.model_dump(mode="json")},
                work_queue_name=queue_of(config),
            )
            say("submit", f"{FLOW}/{config.name}, flow run {run.id}, pool {_place(run)}")
            if not follow:
                return _answer(run), None
            try:
                return _answer(Follower(client, run.id, say).follow()), None
            except KeyboardInterrupt:
                return _answer(run), run


def _place(run: FlowRun) -> str:
    return f"{run.work_pool_name}, queue {run.work_queue_name}"


def _answer(run: FlowRun) -> Answer:
    state = run.state
    name = "unknown" if state is None else state.name or state.type.value
    ended = state is not None and state.is_final()
    facts = [("flow run", f"{run.name} ({run.id})"), ("state", name)]
    if not ended:
        facts += [("watch", "graft status"), ("cancel", f"prefect flow-run cancel {run.id}")]
    data = {"flow_run": {"id": str(run.id), "name": run.name, "state": name}}
    return Answer(data, facts, problem=problem_of(run) if ended else None)


class Follower:
    """Says what a flow run logs, line by line, until it ends."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID, say: Say) -> None:
        self._client, self._run_id, self._say = client, run_id, say
        self._told: set[UUID | None] = set()
        self._newest: datetime | None = None
        self._state = ""
        self._wait = STRAGGLING

    def follow(self) -> FlowRun:
        """Return the run when it has ended and its last lines are told."""
        ended: float | None = None
        while True:
            run = self._client.read_flow_run(self._run_id)
            fresh = self._tell_lines()
            self._tell_state(run)
            if run.state is not None and run.state.is_final():
                if ended is None:
                    self._newest = None  # once more from the start: a clock may have been set back
                ended = time.monotonic() if ended is None or fresh else ended
                if time.monotonic() - ended > self._wait:
                    return run
            time.sleep(POLL_SECONDS)

    def _tell_state(self, run: FlowRun) -> None:
        name = "" if run.state is None else str(run.state.name)
        if name != self._state:
            waiting = "; no worker has taken it yet" if name == "Late" else ""
            self._say("state", f"{name}{waiting}")
            self._state = name

    def _tell_lines(self) -> int:
        """Say what is new; return how many lines that were."""
        fresh = [line for line in self._lines() if line.id not in self._told]
        for line in fresh:
            self._told.add(line.id)
            self._newest = max(line.timestamp, self._newest or line.timestamp)
            if line.name == LAST[0] and line.message.startswith(LAST[1]):
                self._wait = LINGERING
            if line.name.startswith(OURS):
                room = line.name.split(".")[1]
                self._say(ROOMS.get(room, room), line.message)
        return len(fresh)

    def _lines(self) -> list[Log]:
        from prefect.client.schemas.filters import LogFilter
        from prefect.client.schemas.sorting import LogSort

        about: dict[str, Any] = {"flow_run_id": {"any_": [self._run_id]}}
        if self._newest is not None:
            about["timestamp"] = {"after_": self._newest - OVERLAP}
        wanted = LogFilter.model_validate(about)
        lines: list[Log] = []
        while True:
            page = self._client.read_logs(
                wanted, limit=PAGE, offset=len(lines), sort=LogSort.TIMESTAMP_ASC
            )
            lines += page
            if len(page) < PAGE:
                return lines
