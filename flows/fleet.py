"""``graft status``: the server, its workers, what is deployed, what runs, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group

from flows.answer import Answer, Cells, Rows
from flows.console import duration
from flows.deployed import TAG, every
from flows.server import named_server

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

RECENT = 10  # flow runs
ASKING = "approve models:/"  # how flow runs of flows.approval are named

Said = Callable[[str, str], None]
Row = dict[str, Any]


def status(mark: bool, after: float | None, say: Said) -> Answer:
    """Return what is to be known of the fleet; with ``mark`` stale runs are marked first.

    ``after`` is the silence in seconds that makes a run stale; None for two missed heartbeats.

    Raises ``TrackingError`` without a server.
    """
    with named_server():
        from prefect.client.orchestration import get_client

        from flows import stale_runs

        with get_client(sync_client=True) as client:
            marked = stale_runs.mark_stale(client, say, after) if mark else []
            data = {
                "server": {"url": str(client.api_url), "version": client.api_version()},
                "workers": _workers(client),
                "deployments": _deployments(client),
                "runs": _recent(client),
                "approvals": _approvals(client),
                "stale": [one.as_dict() for one in stale_runs.find_stale(client, say, after)],
                "marked": marked,
            }
    return Answer(data, _facts(data), _tables(data))


def schedule_words(deployment: DeploymentResponse) -> list[str]:
    """Return when a deployment runs by itself, a schedule each."""
    found = []
    for one in deployment.schedules:
        words = getattr(one.schedule, "cron", None) or str(one.schedule)
        zone = getattr(one.schedule, "timezone", None) or "UTC"
        found.append(f"{words} ({zone})" + ("" if one.active else ", paused"))
    return found


def _workers(client: SyncPrefectClient) -> list[Row]:
    rows: list[Row] = []
    for pool in client.read_work_pools():
        limits = _limits(client, pool.name)
        workers = client.read_workers_for_work_pool(pool.name)
        for worker in workers:
            state = "unknown" if worker.status is None else str(worker.status.value).lower()
            beat = _age(worker.last_heartbeat_time)
            row = {"pool": pool.name, "worker": worker.name, "state": state, "heartbeat_s": beat}
            rows.append(row | {"queues": limits})
        if not workers:
            none = {"pool": pool.name, "worker": None, "state": "no worker", "heartbeat_s": None}
            rows.append(none | {"queues": limits})
    return rows


def _limits(client: SyncPrefectClient, pool: str) -> dict[str, int | None]:
    queues = client.read_work_queues(work_pool_name=pool)
    return {queue.name: queue.concurrency_limit for queue in queues}


def _deployments(client: SyncPrefectClient) -> list[Row]:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    flows = {flow.id: flow.name for flow in every(client.read_flows)}
    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
    coming: dict[Any, datetime] = {}
    earliest = FlowRunSort.EXPECTED_START_TIME_ASC
    for run in every(client.read_flow_runs, flow_run_filter=wanted, sort=earliest):
        if run.expected_start_time is not None:
            coming.setdefault(run.deployment_id, run.expected_start_time)
    found = [one for one in every(client.read_deployments) if TAG in one.tags]
    rows = [_deployment(one, flows.get(one.flow_id, "?"), coming.get(one.id)) for one in found]
    return sorted(rows, key=lambda row: str(row["name"]))


def _deployment(one: DeploymentResponse, flow: str, coming: datetime | None) -> Row:
    return {
        "name": f"{flow}/{one.name}",
        "queue": f"{one.work_pool_name}/{one.work_queue_name}",
        "schedules": schedule_words(one),
        "next": None if coming is None else coming.isoformat(timespec="minutes"),
    }


def _recent(client: SyncPrefectClient) -> list[Row]:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    begun = FlowRunFilter.model_validate({"start_time": {"is_null_": False}})
    found = client.read_flow_runs(
        flow_run_filter=begun, sort=FlowRunSort.START_TIME_DESC, limit=RECENT
    )
    return [_run(run) for run in found]


def _run(run: FlowRun) -> Row:
    return {
        "name": run.name,
        "state": "unknown" if run.state is None else run.state.name,
        "age_s": _age(run.start_time),
        "id": str(run.id),
    }


def suspended(client: SyncPrefectClient) -> list[FlowRun]:
    """Return the flow runs that wait for a person's verdict."""
    from prefect.client.schemas.filters import FlowRunFilter

    wanted = FlowRunFilter.model_validate(
        {"state": {"name": {"any_": ["Suspended"]}}, "name": {"like_": ASKING}}
    )
    return every(client.read_flow_runs, flow_run_filter=wanted)


def _approvals(client: SyncPrefectClient) -> list[Row]:
    waiting = [run.parameters for run in suspended(client)]
    return [{"model": asked.get("model"), "version": asked.get("version")} for asked in waiting]


def _age(when: datetime | None) -> float | None:
    return None if when is None else max(0.0, (datetime.now(UTC) - when).total_seconds())


def _facts(data: Row) -> Rows:
    facts: Rows = [("server", f"{data['server']['url']}, Prefect {data['server']['version']}")]
    for one in data["approvals"]:
        facts.append(("approval", f"graft approve {one['model']} {one['version']}"))
    for one in data["stale"]:
        facts.append(("stale", f"{one['what']}: {one['why']} (graft status --mark-stale)"))
    facts += [("marked", words) for words in data["marked"]]
    return facts


def _tables(data: Row) -> Group:
    workers = Cells("pool", "worker", "state", "last heartbeat", "limits of queues")
    for row in data["workers"]:
        limits = ", ".join(f"{name} {limit}" for name, limit in row["queues"].items() if limit)
        beat = _ago(row["heartbeat_s"])
        workers.add(row["pool"], row["worker"] or "", row["state"], beat, limits)
    deployments = Cells("deployment", "queue", "schedule", "next run")
    for row in data["deployments"]:
        when = "; ".join(row["schedules"])
        deployments.add(row["name"], row["queue"], when, (row["next"] or "").replace("T", " "))
    runs = Cells("run", "state", "started", "id")
    for row in data["runs"]:
        runs.add(row["name"], row["state"], _ago(row["age_s"]), row["id"])
    return Group(workers, "", deployments, "", runs, "")


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(max(seconds, 0))} ago"
