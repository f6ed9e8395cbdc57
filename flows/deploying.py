"""``graft deploy``: work pool, queues, everything in prefect.yaml, and who is notified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows import notify
from flows.answer import Answer, Cells
from flows.commands import as_typed
from flows.deployed import GPU_QUEUE, QUEUE, TAG, every, update_made
from flows.deployfile import deploy_file, read_file
from flows.server import named_server
from flows.timetables import kept_schedules

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

KIND = "process"
AGAIN = "prefect deployment delete it, then graft schedule or submit"


def deploy(pool: str, gpus: int | None, block: str | None) -> Answer:
    """Make pool and queues, deploy prefect.yaml, and make the automations that notify by ``block``.

    Safe to run again: what is there is brought up to date, also what ``submit`` and ``schedule``
    made. Schedules that people made, or turned on or off, stay, and so does the limit of the queue
    ``gpu`` where ``gpus`` is None (it is 1 at first). Raises ``TrackingError`` without a server,
    ``ConfigError`` where prefect.yaml or the block is not there.
    """
    content = read_file()
    with named_server():
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            document = None if block is None else notify.block_of(client, block)
            variables = _make_pool(client, pool)
            _make_queue(client, pool, QUEUE, None, None)
            limit = _make_queue(client, pool, GPU_QUEUE, gpus, 1)
            with kept_schedules(client):
                deploy_file(content, pool, variables)
            outdated = update_made(client)
            made = [] if document is None else notify.make_automations(client, document)
            found = every(client.read_deployments)
            flows = {flow.id: flow.name for flow in every(client.read_flows)}
    rows = {f"{flows.get(d.flow_id, '?')}/{d.name}": d for d in found if TAG in d.tags}
    return _answer(rows, pool, limit, made, outdated)


def _make_pool(client: SyncPrefectClient, name: str) -> dict[str, Any]:
    """Make a pool that is missing; return the variables that its job template has."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        wanted = WorkPoolCreate(name=name, type=KIND, base_job_template=template)
        pool = client.create_work_pool(wanted)
    variables: dict[str, Any] = pool.base_job_template.get("variables", {}).get("properties", {})
    return variables


def _make_queue(
    client: SyncPrefectClient, pool: str, name: str, limit: int | None, first: int | None
) -> int | None:
    """Make a queue with the limit ``first`` unless it is there; return what its limit is now."""
    from prefect.exceptions import ObjectNotFound

    try:
        queue = client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        wanted = first if limit is None else limit
        client.create_work_queue(name, concurrency_limit=wanted, work_pool_name=pool)
        return wanted
    if limit is None or queue.concurrency_limit == limit:
        return queue.concurrency_limit
    client.update_work_queue(queue.id, concurrency_limit=limit)
    return limit


def _answer(
    found: dict[str, DeploymentResponse],
    pool: str,
    limit: int | None,
    made: list[str],
    outdated: list[str],
) -> Answer:
    from flows.fleet import schedule_words

    table = Cells("deployment", "queue", "schedule", "what it does")
    rows = []
    for name, one in sorted(found.items()):
        when = "; ".join(schedule_words(one))
        table.add(name, f"{one.work_pool_name}/{one.work_queue_name}", when, _brief(one))
        rows.append({"name": name, "id": str(one.id), "schedules": schedule_words(one)})
    facts = [
        ("pool", f"{pool}, queue {GPU_QUEUE} with {limit or 'any number of'} run(s) at once"),
        *(("notifies", name) for name in made),
        *(("outdated", f"{name}: its config does not fit any more; {AGAIN}") for name in outdated),
        ("worker", f"prefect worker start --pool {pool}  (on each machine, in graft's folder)"),
        ("run", f"{as_typed()} submit configs/digits.yaml"),
    ]
    data = {"pool": pool, "deployments": rows, "automations": made, "outdated": outdated}
    return Answer(data, facts, table)


def _brief(deployment: DeploymentResponse) -> str:
    return (deployment.description or "").partition(". ")[0].removesuffix(".")
