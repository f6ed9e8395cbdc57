"""Metrics on their way to MLflow: each gets there once, also where the server goes away meanwhile.

A metric waits until the server has said that it took it. Where it has not said so, it may have
taken it all the same (the answer was lost, or the process was killed before it came): then what it
has is looked at before anything is sent again. A metric that waits keeps its time, so MLflow's SQL
stores, whose key is name, step, time and value, would not take it twice either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from mlflow import MlflowClient
from mlflow.entities import Metric

from tasks.errors import GraftError, TrackingError, TransientTrackingError
from tasks.register.client import is_remote, shown_address, tracking_errors, tracking_uri
from tasks.register.facts import finite_metrics, is_another
from tasks.register.moments import now_after
from tasks.register.spool import Spool
from tasks.register.wire import Wire

QUICK = 5.0  # seconds that a training waits for the server
PATIENT = 60.0  # seconds for the same where nothing else is left to do
SPARED = 20  # so many times as long as a vain try took is trained before the next one
BATCH = 900  # MLflow takes 1,000 metrics and tags at once
NOT_FINITE = "graft.not_finite"

log = logging.getLogger(__name__)

Key = tuple[str, int]  # name and step


class Delivery:
    """The metrics of one run: those that MLflow has, and those that it shall have."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._wire = Wire(client, run_id)
        self._spool: Spool | None = None
        self._waiting: dict[Key, Metric] = {}
        self._tags: dict[str, str] = {}
        self._sent: dict[Key, float] = {}
        self._unsure = False  # whether the server may have some of what waits
        self._last = 0  # ms since 1970, of the latest metric
        self._late = False  # whether it was said that something waits
        self._not_before = 0.0

    def keep_in(self, path: Path) -> None:
        """Keep what waits in a file from now on, and take up what an earlier process left there."""
        self._spool = Spool(path)
        left = self._spool.read()
        self._waiting |= _by_key(left)
        self._last = max([self._last, *(metric.timestamp for metric in left)])
        self._unsure = self._unsure or bool(left)

    def add(
        self, values: Mapping[str, float], step: int, tags: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Let figures, and tags, wait that MLflow has not yet.

        Where one of them is another than it has, as of a training that began anew on a GPU, all of
        the step are sent: MLflow keeps both points, and shows the later.
        """
        self._last = now_after(self._last)
        metrics, odd = finite_metrics(values, self._last, step)
        known = self._sent | {key: metric.value for key, metric in self._waiting.items()}
        anew = any(is_another(metric, known) for metric in metrics)
        new = [metric for metric in metrics if anew or (metric.key, metric.step) not in known]
        self._waiting |= _by_key(new)
        self._tags |= tags
        if odd:
            self._tags[NOT_FINITE] = "; ".join(odd)
        if new and self._spool is not None:
            self._spool.append(new)

    def look(self, names: Iterable[str]) -> None:
        """Take what MLflow has of these metrics for sent; raises ``TrackingError``."""
        self._look(names, time.monotonic() + PATIENT)

    def _look(self, names: Iterable[str], until: float) -> None:
        with tracking_errors("reading the metrics"):
            for name in sorted(names):
                for metric in sorted(self._wire.history(name, until), key=lambda m: m.timestamp):
                    self._has(metric)

    def _has(self, metric: Metric) -> None:
        key = (metric.key, metric.step)
        self._sent[key] = metric.value
        self._last = max(self._last, metric.timestamp)
        if key in self._waiting and self._waiting[key].timestamp == metric.timestamp:
            del self._waiting[key]

    def deliver(self, seconds: float = PATIENT) -> None:
        """Send what waits; raises ``TrackingError``, its transient kind where a retry may help."""
        until = time.monotonic() + seconds
        if self._unsure:
            self._look({name for name, _ in self._waiting}, until)
        with tracking_errors("logging metrics"):
            while self._waiting or self._tags:
                batch = list(islice(self._waiting.values(), BATCH))
                self._unsure = True
                self._wire.send(batch, self._tags, until)
                for metric in batch:
                    self._has(metric)
                self._tags = {}
        self._unsure = self._late = False
        if self._spool is not None:
            self._spool.clear()

    def attempt(self, epoch: int) -> None:
        """Send what waits, in passing: training must neither end nor wait because of it.

        That something waits is said once. A server that keeps silent is asked again after twenty
        times as long as it was waited for.
        """
        begun, late = time.monotonic(), self._late
        if begun < self._not_before:
            return
        try:
            self.deliver(QUICK)
        except TrackingError as error:
            self._not_before = time.monotonic() + SPARED * (time.monotonic() - begun)
            if not late:
                why = _why(error)
                log.warning(
                    "epoch %d is not tracked yet, and waits with those after it: %s", epoch, why
                )
            self._late = True
        else:
            if late:
                log.info("MLflow answers again: every epoch up to %d is tracked", epoch)

    def finish(self) -> None:
        """Send what waits, once more: the run is closed after it, however it ended."""
        try:
            self.deliver(QUICK)
        except GraftError as error:  # must not hide how the run ended
            kept = "" if self._spool is None else f" It is kept in {self._spool.path}."
            log.warning("not everything is tracked: %s.%s", _why(error), kept)


def _by_key(metrics: Iterable[Metric]) -> dict[Key, Metric]:
    return {(metric.key, metric.step): metric for metric in metrics}


def _why(error: GraftError) -> str:
    if isinstance(error, TransientTrackingError) and is_remote(tracking_uri()):
        return f"MLflow's server at {shown_address()} does not answer"  # its words fill three lines
    return str(error).partition("\n")[0].rstrip(".")
