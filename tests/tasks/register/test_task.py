"""The register room's Prefect task outlives a tracking server that is away for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import LocalServer, using
from tasks.errors import TransientTrackingError
from tasks.register import locks, promote, wire
from tasks.register.registry import list_versions
from tasks.register.tracking import open_run
from tasks.retry import RETRY_DELAYS
from tasks.values import PromotionDecision
from tests.tasks.register.line import Line


@pytest.fixture
def prefect_server(tmp_path: Path) -> Iterator[LocalServer]:
    """Start a Prefect server, which comes up while other fixtures are made."""
    server = LocalServer(tmp_path / "prefect")
    yield server
    server.stop()


def test_a_model_is_registered_when_the_server_is_there_again(
    prefect_server: LocalServer, line: Line, strong, monkeypatch: pytest.MonkeyPatch
):
    """It is away when the task begins, which waits, and again in the middle of the first try."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the task's own tries are tested
    monkeypatch.setattr(wire, "PAUSE", 0.1)
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 1.0)
    from tasks.register import task

    registering, failures, waited = task.register, [], []

    def wait_and_lose_it_once() -> None:
        wire.wait_for_server()
        if not waited:
            line.down()
        waited.append(True)

    def until_it_fails(*given: object) -> PromotionDecision:
        try:
            return registering(*given)
        except TransientTrackingError as error:
            failures.append(error)
            line.up()
            raise

    monkeypatch.setattr(promote, "wait_for_server", wait_and_lose_it_once)
    monkeypatch.setattr(task, "register", until_it_fails)
    promotion = strong.config.promotion.model_copy(update={"model": "away"})
    config = strong.config.model_copy(update={"promotion": promotion})
    parts = (config, strong.raw, strong.prepared, strong.model, strong.report)
    with using(prefect_server), open_run(config) as tracker:
        line.down()
        back = threading.Timer(0.5, line.up)
        back.start()
        begin = time.monotonic()
        decision = task.register_model(*parts, tracker.run_id)
        assert time.monotonic() - begin > 0.5 + RETRY_DELAYS[0]
        back.join()
    assert (len(waited), len(failures)) == (2, 1)
    assert decision.promoted
    assert [(row.version, row.aliases) for row in list_versions("away")] == [(1, ("champion",))]
