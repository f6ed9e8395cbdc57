"""The files of a version as the registry has them now, whatever a cache holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.errors import TrackingError
from tasks.register.client import named_store, tracking_uri
from tasks.register.files import check_file, check_files
from tasks.register.hosts import VARIABLE, refused_host
from tasks.use import in_use

IN_PLACE = ("", "file")  # schemes of an address that is a folder here


@contextmanager
def checked_files(version: ModelVersion, scratch: Path | None = None) -> Iterator[Path]:
    """Yield the folder of a version's files, each with the digest that it was registered with.

    Files that lie on a disk here are read where they are; others are downloaded, all of them, below
    ``scratch`` (None: the system's folder for such), and go again: MLflow tells no digest of a file
    that it keeps, so a change is seen only by who reads it. Raises ``TrackingError`` when the
    version is not ready and when a file is missing or another, and MLflow's exceptions.
    """
    if version.status != "READY":
        raise TrackingError(
            f"Version {version.version} of {version.name} is {version.status}, not ready.\n"
            "Wait until it is, or register the model again."
        )
    with (
        tempfile.TemporaryDirectory(dir=scratch, prefix=".version-") as room,
        in_use([Path(room)]),
    ):
        here = _folder_here(version)
        folder = here or _downloaded(version, "", Path(room))
        check_files(version, folder, in_place=here is not None)
        yield folder


def download(version: ModelVersion, path: str, folder: Path, sha256: str | None) -> Path:
    """Download one file of a version; raises ``TrackingError`` unless it has that digest."""
    file = _downloaded(version, path, folder)
    check_file(version, path, file, sha256)
    return file


def _folder_here(version: ModelVersion) -> Path | None:
    """Return where a version's files lie, if that is a folder of this machine."""
    found = urlsplit(_address(version))
    return Path(url2pathname(found.path)) if found.scheme in IN_PLACE else None


def _address(version: ModelVersion) -> str:
    """Return where the registry says that a version's files are, if that host may be asked."""
    with named_store():
        client = MlflowClient(tracking_uri())
        address = str(client.get_model_version_download_uri(version.name, version.version))
    refused = refused_host(address, tracking_uri())
    if refused is not None:
        raise TrackingError(
            f"The files of {version.name} version {version.version} are said to be at {refused}, "
            "not at the tracking server.\nDo not use this version; or name that host in "
            f"{VARIABLE}, if you know it and trust it with your logins."
        )
    return address


def _downloaded(version: ModelVersion, path: str, folder: Path) -> Path:
    """Download from the address that was checked: asked again, a server could name another."""
    address = _address(version)
    folder.mkdir(parents=True, exist_ok=True)
    with named_store():
        store = get_artifact_repository(address, tracking_uri=tracking_uri())
        return Path(store.download_artifacts(path, str(folder)))
