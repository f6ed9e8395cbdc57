"""Metrics over HTTP, asked for once and within some seconds; and waiting for a server that is away.

MLflow's client knocks five times and waits two minutes for each answer: too long for a training
that goes on meanwhile. Other stores, such as sqlite, go through that client.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response
from requests.exceptions import Timeout

from tasks.errors import TrackingError, TransientTrackingError
from tasks.register.client import is_remote, probe, tracking_uri

# of MLflow's REST API: https://mlflow.org/docs/latest/rest-api.html
SEND, HISTORY = "/api/2.0/mlflow/runs/log-batch", "/api/2.0/mlflow/metrics/get-history"
LEAST = 0.1  # seconds that any question is given
PATIENCE = 180.0  # seconds that a server which went away in mid-run is waited for
PAUSE = 2.0  # seconds between two looks whether it is back

log = logging.getLogger(__name__)


class Wire:
    """The metrics of one MLflow run; raises MLflow's and requests' exceptions."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def send(self, metrics: Sequence[Metric], tags: Mapping[str, str], until: float) -> None:
        """Log metrics and tags in one call; ``until`` is of ``time.monotonic``."""
        if not is_remote(self._client.tracking_uri):
            run_tags = [RunTag(key, value) for key, value in tags.items()]
            self._client.log_batch(self._run_id, metrics=metrics, tags=run_tags)
            return
        points = [
            {"key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step}
            for m in metrics
        ]
        named = [{"key": key, "value": value} for key, value in tags.items()]
        content = {"run_id": self._run_id, "metrics": points, "tags": named}
        self._ask(SEND, "POST", until, json=content)

    def history(self, name: str, until: float) -> list[Metric]:
        """Return every point of a metric that the server has."""
        if not is_remote(self._client.tracking_uri):
            return list(self._client.get_metric_history(self._run_id, name))
        asked = {"run_id": self._run_id, "metric_key": name}
        answer = self._ask(HISTORY, "GET", until, params=asked)
        try:
            return [
                Metric(m["key"], float(m["value"]), int(m["timestamp"]), int(m.get("step", 0)))
                for m in answer.get("metrics", [])
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise MlflowException("what the server answered are no metrics") from error

    def _ask(self, path: str, method: str, until: float, **content: object) -> dict[str, Any]:
        left = until - time.monotonic()
        if left < LEAST:
            raise Timeout("the server is too slow")
        answer = http_request(
            get_default_host_creds(self._client.tracking_uri),
            path,
            method,
            max_retries=0,
            timeout=left,
            raise_on_status=False,
            **content,
        )
        return dict(verify_rest_response(answer, path).json())


def wait_for_server() -> None:
    """Return when the tracking server answers; one that went away is waited for, and that is said.

    Raises ``TrackingError``, not its transient kind, where it is not back within ``PATIENCE``: its
    callers' retries would wait for it anew.
    """
    uri, until, said = tracking_uri(), time.monotonic() + PATIENCE, False
    while is_remote(uri):
        try:
            probe(uri)
        except TransientTrackingError as error:
            problem, _, advice = str(error).partition("\n")
            if time.monotonic() > until:
                waited = f"{problem} It was waited for, {PATIENCE:g} s."
                raise TrackingError(f"{waited}\n{advice}") from error
            if not said:
                log.warning("%s Waiting for it, %g s at most.", problem, PATIENCE)
            said = True
        else:
            return
        time.sleep(PAUSE)
