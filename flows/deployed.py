"""Deployments of a config: found by its name, else made after one that ``graft deploy`` made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from tasks.config import RunConfig
from tasks.errors import TrackingError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleUpdate
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

TAG = "graft"
SLUG = "graft"  # of the one schedule of a deployment that graft schedule makes
QUEUE, GPU_QUEUE = "default", "gpu"
CONFLICT = 409  # Prefect's answer to parameters that a schema does not allow
MADE = "Made by graft submit or graft schedule"  # how such a deployment's description begins
COPIED = (
    *("work_pool_name", "job_variables", "pull_steps", "path", "entrypoint"),
    *("parameter_openapi_schema", "enforce_parameter_schema"),
)

Found = TypeVar("Found")


def every(read: Callable[..., list[Found]], **asked: object) -> list[Found]:
    """Return all that a reading method of Prefect's client finds: it gives 200 at once by itself.

    How many is the server's setting, so the end is a page with nothing on it.
    """
    found: list[Found] = []
    while page := read(offset=len(found), **asked):
        found += page
    return found


def is_made(deployment: DeploymentResponse) -> bool:
    """Say whether ``submit`` or ``schedule`` made a deployment, and not ``graft deploy``."""
    return TAG in deployment.tags and (deployment.description or "").startswith(MADE)


def queue_of(config: RunConfig) -> str:
    """Return the queue for a config: ``gpu`` where it insists on one."""
    return GPU_QUEUE if config.training.device == "cuda" else QUEUE


def deployment_of(client: SyncPrefectClient, flow: str, config: RunConfig) -> DeploymentResponse:
    """Return the deployment ``FLOW/NAME`` of a config, made if it is missing.

    It gets code, folder, environment and pool of another deployment of the flow, so that it need
    not be made where the code lies. Raises ``TrackingError`` where the flow has none.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"{flow}/{config.name}")
    except ObjectNotFound:
        pattern = _pattern(client, flow)
    made = client.create_deployment(
        flow_id=pattern.flow_id,
        name=config.name,
        description=f"{MADE}, as {flow}/{pattern.name}.",
        tags=[TAG, config.name],
        parameters={"config": config.model_dump(mode="json")},
        work_queue_name=queue_of(config),
        **{name: getattr(pattern, name) for name in COPIED},
    )
    return client.read_deployment(made)


def update_made(client: SyncPrefectClient) -> list[str]:
    """Bring what ``submit`` and ``schedule`` made up to date with its flow's pattern.

    A deployment holds a copy of its flow's schema, and an old one refuses a config's new keys. Its
    queue, parameters and schedules stay. Returns those that stay as they are, since their own
    config no longer fits: no reason for ``graft deploy`` to fail, after which workers start.
    """
    patterns: dict[UUID, DeploymentResponse] = {}
    names = {flow.id: flow.name for flow in every(client.read_flows)}
    outdated = []
    for made in filter(is_made, every(client.read_deployments)):
        flow = names.get(made.flow_id, "?")
        if made.flow_id not in patterns:
            patterns[made.flow_id] = _pattern(client, flow)
        if not _follow(client, made, patterns[made.flow_id]):
            outdated.append(f"{flow}/{made.name}")
    return outdated


def _follow(
    client: SyncPrefectClient, made: DeploymentResponse, pattern: DeploymentResponse
) -> bool:
    """Give ``made`` what ``pattern`` has; return False where its parameters do not fit that."""
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import PrefectHTTPStatusError

    queue = made.work_queue_name or QUEUE
    copied = {name: getattr(pattern, name) for name in COPIED}
    # left out, tags are not touched; a pool alone would move it to the pool's first queue
    update = DeploymentUpdate.model_validate(copied | {"work_queue_name": queue})
    try:
        client.update_deployment(made.id, update)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != CONFLICT:
            raise
        return False
    return True


def move(client: SyncPrefectClient, deployment: DeploymentResponse, queue: str) -> None:
    """Let a deployment's runs wait in another queue of its pool."""
    from prefect.client.schemas.actions import DeploymentUpdate

    place = {"work_pool_name": deployment.work_pool_name, "work_queue_name": queue}
    client.update_deployment(deployment.id, DeploymentUpdate.model_validate(place))


def made_here(deployment: DeploymentResponse) -> list[DeploymentSchedule]:
    """Return the schedules of a deployment that ``graft schedule`` made: one or none."""
    return [one for one in deployment.schedules if one.slug == SLUG]


def others(deployment: DeploymentResponse) -> list[DeploymentScheduleUpdate]:
    """Return the schedules of a deployment that somebody else made, as they are to be kept."""
    return [to_keep(one) for one in deployment.schedules if one.slug != SLUG]


def to_keep(one: DeploymentSchedule) -> DeploymentScheduleUpdate:
    """Return a schedule as it is to be made again: an update replaces all of a deployment's."""
    from prefect.client.schemas.actions import DeploymentScheduleUpdate

    fields = ("schedule", "active", "max_scheduled_runs", "parameters", "slug")
    return DeploymentScheduleUpdate.model_validate({name: getattr(one, name) for name in fields})


def _pattern(client: SyncPrefectClient, flow: str) -> DeploymentResponse:
    from prefect.client.schemas.filters import FlowFilter
    from prefect.client.schemas.sorting import DeploymentSort

    wanted = FlowFilter.model_validate({"name": {"any_": [flow]}})
    # the newest first: prefect.yaml's are updated by each graft deploy
    newest = DeploymentSort.UPDATED_DESC
    found = every(client.read_deployments, flow_filter=wanted, sort=newest)
    # of those made after a pattern one is a pattern only where none else is left
    for deployment in sorted(found, key=is_made):
        if TAG in deployment.tags and deployment.work_pool_name:
            return deployment
    raise TrackingError(
        f"The Prefect server has no deployment of the flow {flow}.\n"
        "Type graft deploy in graft's folder first."
    )
