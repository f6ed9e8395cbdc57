"""The register room's Prefect task outlives a tracking server that is away for a while."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tasks.register.registry import list_versions
from tasks.register.tracking import open_run
from tasks.retry import RETRY_DELAYS


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_model_is_registered_when_the_server_is_there_again(
    tracking_server, server, strong, monkeypatch: pytest.MonkeyPatch
):
    # MLflow's own tries end after 14 s, not after 28: its server takes 12 s or so to be there again
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    from tasks.register.task import register_model

    parts = (strong.config, strong.raw, strong.prepared, strong.model, strong.report)
    with open_run(strong.config) as tracker:
        address = f"{os.environ['MLFLOW_TRACKING_URI']}/health"
        os.killpg(tracking_server.pid, signal.SIGKILL)
        tracking_server.wait()
        again = threading.Timer(1, server, [tracking_server.args[2:], address])
        again.start()
        begin = time.monotonic()
        decision = register_model(*parts, tracker.run_id)
        assert time.monotonic() - begin > RETRY_DELAYS[0]
        again.join()
    assert decision.promoted
    assert [(row.version, row.aliases) for row in list_versions()] == [(1, ("champion",))]
