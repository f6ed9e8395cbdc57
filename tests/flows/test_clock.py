"""A worker's clock that is set back while its run goes on: real events and lines of a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Running

from flows import submitting
from flows.server import start_server, using
from flows.stale_runs import HEARTBEAT, Beats, _beats, _came_back
from flows.submitting import Follower

HOUR, YEAR = timedelta(hours=1), timedelta(days=365)


@flow
def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with using(start_server()), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def run(client) -> FlowRun:
    return client.create_flow_run(nothing, state=Running())


def beat(client: SyncPrefectClient, run: FlowRun, when: datetime) -> None:
    """Send a heartbeat as a worker's process does, dated by its clock."""
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    event = {"occurred": when.isoformat(), "event": HEARTBEAT, "resource": resource}
    client.request("POST", "/events", json=[event | {"payload": {}, "id": str(uuid4())}])


def until(found: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not found() and time.monotonic() < end:
        time.sleep(0.2)
    return found()


def test_a_heartbeat_counts_whatever_its_clock_says(client, run):
    now = datetime.now(UTC)
    beat(client, run, now)
    assert until(lambda: _beats(client, run) is not None)
    for when in (now - HOUR, now - 3 * YEAR, now + YEAR):
        before = _beats(client, run)
        assert isinstance(before, Beats)
        assert not _came_back(client, run, before)
        beat(client, run, when)
        assert until(lambda before=before: _came_back(client, run, before)), when


def test_lines_are_told_whatever_their_clock_says(client, run, monkeypatch):
    monkeypatch.setattr(submitting, "STRAGGLING", 0.5)
    monkeypatch.setattr(submitting, "POLL_SECONDS", 0.1)
    told: list[str] = []
    now = datetime.now(UTC)

    def line(text: str, when: datetime) -> None:
        given = {"name": "tasks.finetune", "level": 20, "message": text, "timestamp": when}
        client.create_logs([LogCreate(**given, flow_run_id=run.id)])

    follower = Follower(client, run.id, lambda _, text: told.append(text))
    line("first", now)
    assert until(lambda: follower._tell_lines() > 0 or "first" in told)
    line("an hour earlier", now - HOUR)
    client.set_flow_run_state(run.id, Completed(), force=True)
    follower.follow()
    assert [text for text in told if text != "Completed"] == ["first", "an hour earlier"]


def test_nobody_is_kept_waiting_once_the_last_line_has_come(client, run, monkeypatch):
    monkeypatch.setattr(submitting, "STRAGGLING", 60.0)
    monkeypatch.setattr(submitting, "LINGERING", 0.3)
    monkeypatch.setattr(submitting, "POLL_SECONDS", 0.1)
    name, words = submitting.LAST
    last = {"name": name, "level": 20, "message": f"{words} Completed()", "flow_run_id": run.id}
    client.create_logs([LogCreate(**last, timestamp=datetime.now(UTC))])
    client.set_flow_run_state(run.id, Completed(), force=True)
    began = time.monotonic()
    Follower(client, run.id, lambda *_: None).follow()
    assert time.monotonic() - began < 30
