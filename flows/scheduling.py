"""``graft schedule``: a config that runs by itself, at the times of a cron line."""

from __future__ import annotations

import asyncio
import zoneinfo
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.answer import Answer
from flows.deployed import (
    GPU_QUEUE,
    SLUG,
    deployment_of,
    is_made,
    made_here,
    move,
    others,
    queue_of,
)
from flows.server import named_server
from tasks.config import RunConfig
from tasks.configfile import load_config
from tasks.errors import ConfigError
from tasks.public import check_no_secrets

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

FIRINGS = 3
FIELDS = ("minute", "hour", "day", "month", "weekday")


def schedule(
    cron: str, path: Path, overrides: Sequence[str], timezone: str, flow: str, active: bool
) -> Answer:
    """Run a config by ``flow`` at the times of ``cron``; replaces what it was scheduled by before.

    The schedule carries the config in itself: the deployment's own parameters stay as they are.
    Raises ``ConfigError`` for a cron line, a timezone or a config that is wrong, or one that wants
    a GPU by a deployment of prefect.yaml that is not in the queue ``gpu``; ``TrackingError``
    without a server.
    """
    config = load_config(path, overrides)
    check_no_secrets(config)
    times = firings(cron, timezone)
    with named_server():
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import DeploymentScheduleUpdate
        from prefect.client.schemas.schedules import CronSchedule

        ours = DeploymentScheduleUpdate(
            schedule=CronSchedule(cron=cron, timezone=timezone),
            active=active,
            parameters={"config": config.model_dump(mode="json")},
            slug=SLUG,
        )
        with get_client(sync_client=True) as client:
            deployment = deployment_of(client, flow, config)
            queue = _settle_queue(client, deployment, config)
            _replace(client, deployment, [*others(deployment), ours])
    name = f"{flow}/{config.name}"
    facts = [("scheduled" if active else "paused", f"{name}: {cron} ({timezone})")]
    facts.append(("queue", f"{deployment.work_pool_name}/{queue}"))
    facts += [("next", f"{when:%Y-%m-%d %H:%M %Z, %A}") for when in times if active]
    data = {"deployment": name, "cron": cron, "timezone": timezone, "active": active}
    return Answer(data | {"next": [when.isoformat() for when in times]}, facts)


def unschedule(path: Path, overrides: Sequence[str], flow: str, remove: bool) -> Answer:
    """Take away, or pause, what ``schedule`` made of a config.

    Raises ``ConfigError`` where it made nothing.
    """
    name = f"{flow}/{load_config(path, overrides).name}"
    with named_server():
        from prefect.client.orchestration import get_client
        from prefect.exceptions import ObjectNotFound

        with get_client(sync_client=True) as client:
            try:
                deployment = client.read_deployment_by_name(name)
            except ObjectNotFound:
                deployment = None
            ours = [] if deployment is None else made_here(deployment)
            if deployment is None or not ours:
                raise ConfigError(f"{name} is not scheduled by graft.\nSee graft status.")
            for one in ours:
                if remove:  # by itself: an update of all leaves those with slugs that it lacks
                    client.delete_deployment_schedule(deployment.id, one.id)
                else:
                    client.update_deployment_schedule(deployment.id, one.id, active=False)
    done = "removed" if remove else "paused"
    return Answer({"deployment": name, done: True}, [(done, f"the schedule of {name}")])


def firings(cron: str, timezone: str) -> list[datetime]:
    """Return the next three times of a cron line; raises ``ConfigError`` that says what is wrong.

    A line of five fields, as crontab(5): minute, hour, day of month, month, day of week.
    """
    from prefect.server.schemas.schedules import CronSchedule

    wrong = _wrong(cron)
    if wrong is not None:
        raise ConfigError(
            f"{cron!r} is no cron line: {wrong}.\n"
            'Write minute, hour, day, month and weekday, such as "0 3 * * 1": Mondays at 03:00.'
        )
    if timezone not in zoneinfo.available_timezones():
        raise ConfigError(f"{timezone!r} is no timezone.\nWrite one such as Europe/Berlin.")
    try:
        times = asyncio.run(CronSchedule(cron=cron, timezone=timezone).get_dates(FIRINGS))
    except ValueError as error:  # croniter's, as of the 31st of February
        raise ConfigError(f"{cron!r} never comes.\nCheck day and month.") from error
    return list(times)


def _wrong(cron: str) -> str | None:
    """Say what is wrong with a cron line, if anything is."""
    fields = cron.split()
    if len(fields) != len(FIELDS):
        return f"it has {len(fields)} fields, not {len(FIELDS)}"
    for place, field in enumerate(fields):
        alone = ["*"] * len(FIELDS)
        alone[place] = field
        if not _valid(" ".join(alone)):
            return f"{field!r} is no {FIELDS[place]}"
    return None if _valid(cron) else "its fields do not go together"


def _valid(cron: str) -> bool:
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=cron)
    except ValidationError:
        return False
    return True


def _settle_queue(
    client: SyncPrefectClient, deployment: DeploymentResponse, config: RunConfig
) -> str:
    """Return the queue that scheduled runs wait in: their deployment's, as no schedule names one.

    A deployment that graft made for the config goes where the config belongs. One of prefect.yaml
    is where that says, and ``graft deploy`` would put it there again.
    """
    wanted, now = queue_of(config), str(deployment.work_queue_name)
    if is_made(deployment) and now != wanted:
        move(client, deployment, wanted)
        return wanted
    if wanted == GPU_QUEUE != now:
        raise ConfigError(
            f"training.device=cuda belongs in the queue {GPU_QUEUE}, but prefect.yaml deploys "
            f"{deployment.name} to {now}.\n"
            f"Give the config a name of its own, such as name={config.name}-gpu."
        )
    return now


def _replace(client: Any, deployment: DeploymentResponse, schedules: list[Any]) -> None:  # noqa: ANN401
    from prefect.client.schemas.actions import DeploymentUpdate

    client.update_deployment(deployment.id, DeploymentUpdate(schedules=schedules))
