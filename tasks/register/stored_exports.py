"""Exported files that are kept with the run that made their version, all of one or none."""

from __future__ import annotations

import logging
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.errors import GraftError, TrackingError
from tasks.evaluate.exported import ExportSpec
from tasks.register.client import named_store, tracking_errors, tracking_uri

TAG = "graft.export."  # version tag, with the format: digest of the exported file

log = logging.getLogger(__name__)


def store_export(
    client: MlflowClient, version: ModelVersion, spec: ExportSpec, folder: Path
) -> None:
    """Put ``folder`` with the run that made the version, and then say so on the version.

    Where that fails, what was stored of it is taken away, unless it lies over an earlier export of
    the same format. Raises ``TrackingError``.
    """
    name, number, run_id = version.name, version.version, version.run_id
    if not run_id:
        raise TrackingError(
            f"Version {number} of {name} was made by no run, which could take the file.\n"
            "Export it without --register."
        )
    place = f"exports/{spec.format}"
    with tracking_errors(f"storing the export of {name} version {number}"), named_store():
        empty = not client.list_artifacts(run_id, place)
        try:
            client.log_artifacts(run_id, str(folder), place)
            client.set_model_version_tag(name, number, f"{TAG}{spec.format}", spec.sha256)
        except BaseException:
            if empty:
                _take_away(client, run_id, place)
            raise


def _take_away(client: MlflowClient, run_id: str, place: str) -> None:
    try:
        with tracking_errors("taking an export back"):
            kept = client.get_run(run_id).info.artifact_uri
            get_artifact_repository(kept, tracking_uri=tracking_uri()).delete_artifacts(place)
    except (GraftError, NotImplementedError) as fault:  # must not hide what went wrong first
        log.warning("%s of run %s may be left behind: %s", place, run_id, fault)
