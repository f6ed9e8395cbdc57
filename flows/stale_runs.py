"""Runs that stay RUNNING because their process, and the worker that saw to it, were killed.

A flow run on a worker sends a heartbeat from a thread of its own, every 30 s as prefect.yaml sets
it. Silence alone proves nothing: a server that was away, or a machine that slept, heard none
either. So a silent run is watched for longer than a heartbeat's period, now that the server
answers, and is marked only if none comes. Prefect's own recipe, an automation that acts on the
silence at once, cannot look again: it may take a server's restart for the death of a run.

Runs that send no heartbeats are never marked. Runs in MLflow are: where their flow run ended, and
where their process on this very machine is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.console import duration
from flows.deployed import every
from tasks.errors import TrackingError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

HEARTBEAT = "prefect.flow-run.heartbeat"
FREQUENCY = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
DEFAULT = timedelta(seconds=180)  # Prefect's, where neither run nor deployment sets it
MISSED = 2  # heartbeats, after which a run is looked at
SLACK = timedelta(seconds=15)  # of a slow server
LOOK_SECONDS = 2.0
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

Said = Callable[[str, str], None]


@dataclass(frozen=True)
class Stale:
    """A run that is not what it says."""

    what: str
    why: str
    flow_run: str | None = None
    mlflow_run: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class Beats:
    """What is known of the heartbeats of a flow run."""

    last: datetime  # by the clock of the run's machine
    period: timedelta
    count: int


Silent = tuple["FlowRun", Beats]


def find_stale(client: SyncPrefectClient, say: Said, after: float | None = None) -> list[Stale]:
    """Return what looks stale: silent flow runs, and MLflow runs that nobody works on any more.

    ``after`` is the silence in seconds that counts; None for two missed heartbeats.
    """
    silent = [
        Stale(run.name, f"no heartbeat for {_since(beats)}", flow_run=str(run.id))
        for run, beats in _silent(client, after)
    ]
    return silent + _stale_in_mlflow(client, say)


def mark_stale(client: SyncPrefectClient, say: Said, after: float | None = None) -> list[str]:
    """Mark stale flow runs CRASHED and stale MLflow runs KILLED; return a line for each.

    Watches silent flow runs for longer than a heartbeat takes: no time where none is silent for
    ``after`` seconds, as ``find_stale`` counts.
    """
    silent = _still_silent(client, _silent(client, after), say)
    done = [_crash(client, run, beats) for run, beats in silent]
    return done + [line for one in _stale_in_mlflow(client, say) if (line := _kill(one))]


def _still_silent(client: SyncPrefectClient, found: list[Silent], say: Said) -> list[Silent]:
    if not found:
        return []
    wait = 1.25 * max(beats.period for _, beats in found) + SLACK
    names = ", ".join(run.name for run, _ in found)
    say("status", f"{names}: no heartbeat; looking for {duration(wait.total_seconds())} for one")
    deadline = time.monotonic() + wait.total_seconds()
    while found and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        found = [(run, beats) for run, beats in found if not _came_back(client, run, beats)]
    return [(run, beats) for run, beats in found if _is_running(client, run.id)]


def _came_back(client: SyncPrefectClient, run: FlowRun, before: Beats) -> bool:
    now = _beats(client, run)  # counted: the clock that dates them may have been set back
    return now is not None and now.count > before.count


def _is_running(client: SyncPrefectClient, run_id: UUID) -> bool:
    state = client.read_flow_run(run_id).state
    return state is not None and state.is_running()


def _crash(client: SyncPrefectClient, run: FlowRun, beats: Beats) -> str:
    from prefect.states import Crashed

    words = f"No heartbeat for {_since(beats)}: its process is gone. Marked by graft."
    client.set_flow_run_state(run.id, Crashed(message=words))
    return f"{run.name} ({run.id}) CRASHED: no heartbeat for {_since(beats)}"


def _silent(client: SyncPrefectClient, after: float | None) -> list[Silent]:
    """Return the running flow runs that have been silent for long, with their heartbeats."""
    from prefect.client.schemas.filters import FlowRunFilter

    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}})
    found = []
    for run in every(client.read_flow_runs, flow_run_filter=wanted):
        beats = _beats(client, run)
        if beats is None:
            continue
        long = MISSED * beats.period + SLACK if after is None else timedelta(seconds=after)
        if datetime.now(UTC) - beats.last > long:
            found.append((run, beats))
    return found


def _beats(client: SyncPrefectClient, run: FlowRun) -> Beats | None:
    """Return a flow run's last heartbeat and their period; None for one that never sent any."""
    from prefect.events.filters import EventFilter

    wanted = EventFilter.model_validate(
        {
            "event": {"name": [HEARTBEAT]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            "occurred": {"since": _EARLIEST, "until": _LATEST},  # whatever its clock says
        }
    )
    page = client.read_events(wanted, limit=2)
    times = [event.occurred for event in page.events]
    if not times:
        return None
    between = times[0] - times[-1]  # nothing where there is one alone
    return Beats(times[0], max(between, _set_period(client, run)), page.total)


def _set_period(client: SyncPrefectClient, run: FlowRun) -> timedelta:
    """Return how often a run is to send heartbeats, as run or deployment set it for its worker."""
    for variables in (run.job_variables, _variables(client, run.deployment_id)):
        seconds = ((variables or {}).get("env") or {}).get(FREQUENCY)
        if seconds is not None:
            return timedelta(seconds=float(seconds))
    return DEFAULT


def _variables(client: SyncPrefectClient, deployment: UUID | None) -> dict[str, Any] | None:
    """Return a deployment's job variables; None without one, also where it was deleted."""
    from prefect.exceptions import ObjectNotFound

    try:
        return None if deployment is None else client.read_deployment(deployment).job_variables
    except ObjectNotFound:
        return None


def _since(beats: Beats) -> str:
    return duration((datetime.now(UTC) - beats.last).total_seconds())


def _stale_in_mlflow(client: SyncPrefectClient, say: Said) -> list[Stale]:
    from tasks.register.open_runs import find_over

    try:
        over = find_over(partial(_ended, client))
    except TrackingError as error:  # Prefect's half is worth telling without it
        say("status", f"MLflow's runs are not looked at: {str(error).partition(chr(10))[0]}")
        return []
    return [Stale(f"MLflow run {run.name}", why, run.flow_run, run.run_id) for run, why in over]


def _ended(client: SyncPrefectClient, flow_run: str | None) -> str | None:
    """Say how a flow run ended, if it did; one that Prefect no longer knows may be of elsewhere."""
    from prefect.exceptions import ObjectNotFound

    if flow_run is None:
        return None
    try:
        state = client.read_flow_run(UUID(flow_run)).state
    except (ObjectNotFound, ValueError):
        return None
    return f"its flow run is {state.name}" if state is not None and state.is_final() else None


def _kill(one: Stale) -> str | None:
    """Close a run in MLflow and say so; None where it ended by itself since it was looked at."""
    from tasks.register.open_runs import close_open

    closed = close_open(str(one.mlflow_run), one.why)
    return f"{one.what} ({one.mlflow_run}) KILLED: {one.why}" if closed else None
