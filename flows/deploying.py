"""``graft deploy``: work pool, queues, everything in prefect.yaml, and who is notified."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import notify
from flows.answer import Answer, Cells
from flows.commands import as_typed
from flows.deployed import GPU_QUEUE, QUEUE, TAG, made_here, others, to_keep
from flows.server import named_server
from tasks.errors import ConfigError, TrackingError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

FILE = Path("prefect.yaml")
KIND = "process"
SECONDS = 300


def deploy(pool: str, gpus: int, block: str | None) -> Answer:
    """Make pool and queues, deploy prefect.yaml, and make the automations that notify by ``block``.

    Safe to run again: what is there is brought up to date, and schedules that ``graft schedule``
    made stay. Raises ``TrackingError`` without a server, ``ConfigError`` where prefect.yaml or the
    block is not there.
    """
    content = _content()
    with named_server():
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            document = None if block is None else notify.block_of(client, block)
            _make_pool(client, pool)
            _make_queue(client, pool, QUEUE, None)
            _make_queue(client, pool, GPU_QUEUE, gpus)
            scheduled = [d for d in client.read_deployments() if made_here(d)]
            _deploy_file(content, pool)
            for deployment in scheduled:
                _schedule_again(client, deployment)
            made = [] if document is None else notify.make_automations(client, document)
            found = client.read_deployments()
            flows = {flow.id: flow.name for flow in client.read_flows()}
    rows = {f"{flows[d.flow_id]}/{d.name}": d for d in found if TAG in d.tags}
    return _answer(rows, pool, gpus, made)


def _content() -> dict[str, Any]:
    import yaml

    try:
        content: dict[str, Any] = yaml.safe_load(FILE.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{FILE} cannot be read in {Path.cwd()}: {error.strerror}.\n"
            "Type graft deploy in graft's folder: the workers run in it."
        ) from error
    return content


def _make_pool(client: SyncPrefectClient, name: str) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=KIND, base_job_template=template))


def _make_queue(client: SyncPrefectClient, pool: str, name: str, limit: int | None) -> None:
    from prefect.exceptions import ObjectNotFound

    try:
        queue = client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        client.create_work_queue(name, concurrency_limit=limit, work_pool_name=pool)
        return
    if limit is not None and queue.concurrency_limit != limit:
        client.update_work_queue(queue.id, concurrency_limit=limit)


def _deploy_file(content: dict[str, Any], pool: str) -> None:
    """Let Prefect's own command deploy all that the file holds; it keeps a text no API takes."""
    with _for_pool(content, pool) as path:
        command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(  # noqa: S603 - our own interpreter and fixed words
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-300:]
        raise TrackingError(
            f"prefect deploy --all did not go well: {words}\nCorrect {FILE}, or see to the server."
        )


@contextmanager
def _for_pool(content: dict[str, Any], pool: str) -> Iterator[Path]:
    """Yield a file that deploys to ``pool``: prefect.yaml itself where it names that one."""
    import yaml

    deployments = content["deployments"]
    if all(deployment["work_pool"]["name"] == pool for deployment in deployments):
        yield FILE
        return
    for deployment in deployments:
        deployment["work_pool"] = {**deployment["work_pool"], "name": pool}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE.name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        yield path


def _schedule_again(client: SyncPrefectClient, before: DeploymentResponse) -> None:
    """Put back what ``graft schedule`` made: Prefect's command replaces all schedules."""
    from prefect.client.schemas.actions import DeploymentUpdate

    now = client.read_deployment(before.id)
    if not made_here(now):
        ours = [to_keep(one) for one in made_here(before)]
        client.update_deployment(now.id, DeploymentUpdate(schedules=[*others(now), *ours]))


def _answer(found: dict[str, DeploymentResponse], pool: str, gpus: int, made: list[str]) -> Answer:
    from flows.fleet import schedule_words

    table = Cells("deployment", "queue", "schedule", "what it does")
    rows = []
    for name, one in sorted(found.items()):
        when = "; ".join(schedule_words(one))
        table.add(name, f"{one.work_pool_name}/{one.work_queue_name}", when, _brief(one))
        rows.append({"name": name, "id": str(one.id), "schedules": schedule_words(one)})
    facts = [
        ("pool", f"{pool}, queue {GPU_QUEUE} with {gpus} run(s) at once"),
        *(("notifies", name) for name in made),
        ("worker", f"prefect worker start --pool {pool}  (on each machine, in graft's folder)"),
        ("run", f"{as_typed()} submit configs/digits.yaml"),
    ]
    return Answer({"pool": pool, "deployments": rows, "automations": made}, facts, table)


def _brief(deployment: DeploymentResponse) -> str:
    return (deployment.description or "").partition(". ")[0].removesuffix(".")
