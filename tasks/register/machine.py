"""What the machine does while a run goes on, as metrics of its MLflow run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from tasks.errors import GraftError
from tasks.register.client import tracking_errors, tracking_uri

SAMPLE_SECONDS = 2.0
AWAY_SECONDS = 10.0  # from a server that did not answer to the next try
END_SECONDS = 15.0  # longest wait for the last samples to be logged
SAMPLES_A_POINT = 5  # a point every ten seconds, as MLflow's default

log = logging.getLogger(__name__)


class _Monitor(SystemMetricsMonitor):
    """MLflow's, which ends for good where the server is away, begun anew until it is told to end.

    What it could not log goes with the next point.
    """

    def monitor(self) -> None:
        while not self._shutdown_event.is_set():
            super().monitor()  # type: ignore[no-untyped-call]
            self._shutdown_event.wait(AWAY_SECONDS)


@contextmanager
def system_metrics(run_id: str, again: bool = False) -> Iterator[None]:
    """Log CPU, memory, disk, network and GPU until the block ends; ``again``: after others."""
    monitor = _made(run_id, again)
    monitor.start()
    try:
        yield
    finally:
        _end(monitor)


def _made(run_id: str, again: bool) -> SystemMetricsMonitor:
    return _Monitor(  # type: ignore[no-untyped-call]
        run_id,
        sampling_interval=SAMPLE_SECONDS,
        samples_before_logging=SAMPLES_A_POINT,
        resume_logging=again,
        tracking_uri=tracking_uri(),
    )


def _end(monitor: SystemMetricsMonitor) -> None:
    """End it in a thread of its own: a server that keeps silent would hold it for minutes."""

    def end() -> None:
        monitor.finish()
        _last_sample(monitor)

    ending = threading.Thread(target=end, daemon=True, name="last system metrics")
    ending.start()
    ending.join(END_SECONDS)
    if ending.is_alive():
        log.warning("the last system metrics are not tracked: MLflow does not answer")


def _last_sample(monitor: SystemMetricsMonitor) -> None:
    # The monitor drops a point that is not full when it stops: all that a short run has.
    try:
        with tracking_errors("logging the last system metrics"):
            monitor.collect_metrics()
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()
    except GraftError as error:
        log.warning("the last system metrics are not tracked: %s", error)
