"""What every check of a registered model shares: the version with its files, and an MLflow run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from tasks.configfile import dump_config
from tasks.evaluate.reference import Outlook
from tasks.monitorconfig import MonitorConfig, WatchConfig
from tasks.monitorvalues import WatchReport
from tasks.public import public_config, without_secrets
from tasks.register.client import connect, tracking_errors
from tasks.register.contest import learned_by
from tasks.register.facts import finite_metrics, run_tags
from tasks.register.learned import Learned
from tasks.register.packaging import KEPT_REFERENCE, REFERENCE
from tasks.register.registry import fetch_version, find_version
from tasks.register.stored import download
from tasks.register.tracking import closing, find_experiment
from tasks.retry import with_retries
from tasks.values import RegisteredModel

WATCH = "graft.watch"  # run tag: monitor or reevaluate
ALERT = "graft.alert"  # run tag: true or false
MODEL = "graft.model"  # run tag: models:/NAME/VERSION

AnyWatch = TypeVar("AnyWatch", bound=WatchConfig)


@dataclass(frozen=True)
class Watched:
    """A version, its files checked, and the images that it learned from."""

    version: ModelVersion
    model: RegisteredModel
    learned: Learned


def fetch_watched(uri: str, cache: Path) -> Watched:
    """Fetch the version that ``uri`` names; raises as ``tasks.register.registry.fetch``."""
    client = connect(create=False)
    with tracking_errors(f"fetching {uri}"):
        version = find_version(client, uri)
        return Watched(version, fetch_version(version, cache), learned_by(version))


def read_reference(version: ModelVersion) -> Outlook | None:
    """Return the reference that a version carries; None where it was registered without.

    Raises ``TrackingError`` when the file is missing or is not the one that was registered.
    """
    digest = version.tags.get(REFERENCE)
    if digest is None:
        return None
    with (
        tracking_errors(f"reading the reference of {version.name} version {version.version}"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        file = download(version, KEPT_REFERENCE, Path(scratch), digest)
        return Outlook.from_bytes(file.read_bytes())


class WatchRun:
    """The MLflow run of one check; raises as the methods of ``RunTracker``."""

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._client = client

    def finished(self, report: WatchReport, metrics: Mapping[str, float]) -> None:
        """Log the figures, what the check says, and every file of its folder."""
        found, _ = finite_metrics(metrics, int(time.time() * 1000), 0)
        tags = [RunTag(MODEL, report.model), RunTag(ALERT, str(report.alert).lower())]
        with tracking_errors("logging the check"):
            self._client.log_batch(self.run_id, metrics=found, tags=tags)
            self._client.log_artifacts(self.run_id, str(report.folder))


@contextmanager
def open_watch(config: WatchConfig, kind: str) -> Iterator[WatchRun]:
    """Open an MLflow run for a check, and close it with the status that tells how the block ended.

    An alert is no failure. Raises ``TrackingError``.
    """
    client = connect()
    run = with_retries(_open, client, config, kind)
    with closing(client, run.run_id):
        with_retries(_write_facts, client, run.run_id, config)
        yield run


def _open(client: MlflowClient, config: WatchConfig, kind: str) -> WatchRun:
    with tracking_errors("opening the check's run"):
        experiment = find_experiment(client, config.tracking.experiment)
        tags = run_tags() | {WATCH: kind}
        run = client.create_run(experiment, tags=tags, run_name=config.name)
    return WatchRun(client, str(run.info.run_id), experiment)


def _write_facts(client: MlflowClient, run_id: str, config: WatchConfig) -> None:
    given = public_watch(config).model_dump(mode="json", exclude={"base"})
    params = [Param(key, str(value)[:MAX_PARAM_VAL_LENGTH]) for key, value in given.items()]
    with tracking_errors("logging the check's config"):
        client.log_batch(run_id, params=params)
        client.log_text(run_id, dump_config(public_watch(config)), "config.yaml")


def public_watch(config: AnyWatch) -> AnyWatch:
    """Return ``config`` as it may be shown to all who see a run: without secrets in addresses."""
    images = getattr(config, "images")  # noqa: B009 - each kind of check has images of its own
    changes = {"images": images.model_copy(update={"path": without_secrets(images.path)})}
    if isinstance(config, MonitorConfig) and config.base is not None:
        changes["base"] = public_config(config.base)
    return config.model_copy(update=changes)
