"""Which schedules are put back after a deployment: no server is needed to say it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from flows.timetables import to_restore


def cron(line: str, **fields: Any) -> DeploymentSchedule:
    return DeploymentSchedule(schedule=CronSchedule(cron=line, timezone="UTC"), **fields)


def test_what_was_turned_on_or_off_is_turned_again():
    before = [cron("0 4 * * 1", active=True), cron("0 5 * * 1", active=False)]
    now = [cron("0 4 * * 1", active=False), cron("0 5 * * 1", active=True)]
    assert to_restore(before, now) == (now, [])


def test_an_interval_is_the_same_whenever_it_was_made():
    # each is anchored at the moment that it was made in
    before, now = (
        DeploymentSchedule(schedule=IntervalSchedule(interval=timedelta(hours=1)), active=active)
        for active in (True, False)
    )
    assert to_restore([before], [now]) == ([now], [])


def test_times_of_another_timezone_are_others():
    before = DeploymentSchedule(
        schedule=CronSchedule(cron="0 4 * * 1", timezone="Europe/Berlin"), active=True
    )
    assert to_restore([before], [cron("0 4 * * 1", active=False)]) == ([], [before])


def test_what_is_lacking_is_added_unless_nobody_misses_it():
    of_people = [
        cron("0 1 * * *", active=True),
        cron("0 2 * * *", active=False, slug="graft"),
        cron("0 3 * * *", active=False, parameters={"force": True}),
    ]
    of_an_earlier_file = cron("0 4 * * *", active=False)
    assert to_restore([*of_people, of_an_earlier_file], []) == ([], of_people)


def test_a_slug_stays_the_same_when_its_times_change():
    before, now = cron("0 1 * * *", active=True, slug="a"), cron("0 2 * * *", slug="a")
    assert to_restore([before], [now]) == ([], [])
