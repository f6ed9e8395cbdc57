"""Whether the registry itself still has the files of a version, as they were registered."""

from __future__ import annotations

import logging

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.register.client import tracking_errors
from tasks.register.files import is_listed, without_list
from tasks.register.registry import find_version
from tasks.register.stored import checked_files

log = logging.getLogger(__name__)


def verify_version(client: MlflowClient, version: ModelVersion) -> None:
    """Read a version's files anew, whatever the cache holds, and check the digest of each.

    A version of an older graft has no digest of some of its files; that is logged, and the others
    are checked. Raises ``TrackingError`` when the version is gone or not ready, and when a file is
    missing or not the one that was registered.
    """
    name, number = version.name, version.version
    with tracking_errors(f"checking the files of {name} version {number}"):
        version = find_version(client, f"models:/{name}/{number}")
        if not is_listed(version):
            log.warning(without_list(version))
        with checked_files(version):
            log.debug("the files of %s version %s are those that were registered", name, number)
