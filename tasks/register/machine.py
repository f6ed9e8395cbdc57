"""What the machine does while a run goes on, as metrics of its MLflow run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from tasks.errors import GraftError
from tasks.register.client import tracking_errors, tracking_uri

SAMPLE_SECONDS = 2.0
SAMPLES_A_POINT = 5  # a point every ten seconds, as MLflow's default

log = logging.getLogger(__name__)


@contextmanager
def system_metrics(run_id: str, again: bool = False) -> Iterator[None]:
    """Log CPU, memory, disk, network and GPU until the block ends; ``again``: after others."""
    monitor = SystemMetricsMonitor(
        run_id,
        sampling_interval=SAMPLE_SECONDS,
        samples_before_logging=SAMPLES_A_POINT,
        resume_logging=again,
        tracking_uri=tracking_uri(),
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        _last_sample(monitor)


def _last_sample(monitor: SystemMetricsMonitor) -> None:
    # The monitor drops a point that is not full when it stops: all that a short run has.
    try:
        with tracking_errors("logging the last system metrics"):
            monitor.collect_metrics()
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()
    except GraftError as error:
        log.warning("the last system metrics are not tracked: %s", error)
