"""Deployments of a config: found by its name, else made after one that ``graft deploy`` made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.config import RunConfig
from tasks.errors import TrackingError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleUpdate
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

TAG = "graft"
SLUG = "graft"  # of the one schedule of a deployment that graft schedule makes
QUEUE, GPU_QUEUE = "default", "gpu"


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
        description=f"Made by graft submit or graft schedule, as {flow}/{pattern.name}.",
        tags=[TAG, config.name],
        parameters={"config": config.model_dump(mode="json")},
        work_pool_name=pattern.work_pool_name,
        work_queue_name=queue_of(config),
        job_variables=pattern.job_variables,
        pull_steps=pattern.pull_steps,
        path=pattern.path,
        entrypoint=pattern.entrypoint,
        parameter_openapi_schema=pattern.parameter_openapi_schema,
        enforce_parameter_schema=pattern.enforce_parameter_schema,
    )
    return client.read_deployment(made)


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
    # the newest last: prefect.yaml's are updated by each graft deploy
    found = client.read_deployments(flow_filter=wanted, sort=DeploymentSort.UPDATED_DESC)
    for deployment in found:
        if TAG in deployment.tags and deployment.work_pool_name:
            return deployment
    raise TrackingError(
        f"The Prefect server has no deployment of the flow {flow}.\n"
        "Type graft deploy in graft's folder first."
    )
