"""Whether the registry itself still has the files of a version, as they were registered."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.errors import TrackingError
from tasks.register.client import tracking_errors
from tasks.register.packaging import WEIGHTS_FILE
from tasks.register.registry import download, find_version, read_description


def verify_version(client: MlflowClient, version: ModelVersion) -> None:
    """Download a version's files anew, whatever the cache holds, and check their digests.

    Raises ``TrackingError`` when the version is gone or not ready, and when a file is missing or
    not the one that was registered.
    """
    name, number = version.name, version.version
    with tracking_errors(f"checking the files of {name} version {number}"):
        version = find_version(client, f"models:/{name}/{number}")
        if version.status != "READY":
            raise TrackingError(
                f"Version {number} of {name} is {version.status}, not ready.\n"
                "Wait until it is, or register the model again."
            )
        spec = read_description(version)
        with tempfile.TemporaryDirectory() as scratch:
            download(version, WEIGHTS_FILE, Path(scratch), spec.sha256)
