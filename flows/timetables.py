"""Schedules that outlive a deployment: Prefect's command replaces all that a deployment has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.deployed import TAG, every

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

Schedules = list["DeploymentSchedule"]


@contextmanager
def kept_schedules(client: SyncPrefectClient) -> Iterator[None]:
    """Put back, after the block, what people made of the schedules of graft's deployments.

    That is also where the block fails half-way. See ``to_restore`` for what is put back.
    """
    before = [one for one in every(client.read_deployments) if TAG in one.tags]
    try:
        yield
    finally:
        for one in before:
            _restore(client, one)


def to_restore(before: Schedules, now: Schedules) -> tuple[Schedules, Schedules]:
    """Return the schedules of ``now`` whose ``active`` is to be turned over, and those to add.

    A schedule is the same by its slug, or, without one, by its times and parameters. What people
    turned on or off stays so. One that ``now`` lacks is added, save those that nobody can miss:
    without slug and parameters, and off, as an earlier prefect.yaml had it.
    """
    known = {_key(one): one for one in before}
    present = {_key(one) for one in now}
    turned = [
        one for one in now if _key(one) in known and known[_key(one)].active is not one.active
    ]
    gone = [one for key, one in known.items() if key not in present]
    return turned, [one for one in gone if one.slug or one.active or one.parameters]


def _restore(client: SyncPrefectClient, before: DeploymentResponse) -> None:
    now = client.read_deployment(before.id)
    turned, lacking = to_restore(before.schedules, now.schedules)
    for one in turned:
        client.update_deployment_schedule(now.id, one.id, active=not one.active)
    if lacking:
        client.create_deployment_schedules(now.id, [_again(one) for one in lacking])


def _key(one: DeploymentSchedule) -> str:
    if one.slug:
        return f"slug {one.slug}"
    times = one.schedule.model_dump(mode="json", exclude={"anchor_date"})  # when it was made
    times["timezone"] = times.get("timezone") or "UTC"
    return json.dumps([times, one.parameters], sort_keys=True, default=str)


def _again(one: DeploymentSchedule) -> DeploymentScheduleCreate:
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    fields = ("schedule", "active", "max_scheduled_runs", "parameters", "slug")
    return DeploymentScheduleCreate.model_validate({name: getattr(one, name) for name in fields})
