"""The files of a version as the registry has them now, whatever a cache holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.errors import TrackingError
from tasks.register.client import named_store, tracking_uri
from tasks.register.files import check_file, check_files
from tasks.words import printable

IN_PLACE = ("", "file")  # schemes of an address that is a folder here
FETCHED = ("http", "https", "ftp", "sftp")  # those that ask a host which the registry names


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
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".version-") as room:
        here = _folder_here(version)
        folder = here or _downloaded(version, "", Path(room))
        check_files(version, folder, in_place=here is not None)
        yield folder


def download(version: ModelVersion, path: str, folder: Path, sha256: str | None) -> Path:
    """Download one file of a version; raises ``TrackingError`` unless it has that digest."""
    file = _downloaded(version, f"/{path}", folder)
    check_file(version, path, file, sha256)
    return file


def _folder_here(version: ModelVersion) -> Path | None:
    """Return where a version's files lie, if that is a folder of this machine."""
    found = urlsplit(_address(version))
    return Path(url2pathname(found.path)) if found.scheme in IN_PLACE else None


def _address(version: ModelVersion) -> str:
    """Return where the registry says that a version's files are.

    Whoever may register a version could make all who read it ask any host for anything, and servers
    that only they reach (CWE-918). Of web addresses the tracking server's own alone are followed.
    """
    with named_store():
        client = MlflowClient(tracking_uri())
        address = client.get_model_version_download_uri(version.name, version.version)
    found, own = (urlsplit(each) for each in (address, tracking_uri()))
    host, server = (each.netloc.rpartition("@")[2] for each in (found, own))
    if found.scheme in FETCHED and (found.scheme, host) != (own.scheme, server):
        raise TrackingError(
            f"The files of {version.name} version {version.version} are said to be at "
            f"{found.scheme}://{printable(host)}, not at the tracking server.\n"
            "Do not use this version: register the model again."
        )
    return str(address)


def _downloaded(version: ModelVersion, path: str, folder: Path) -> Path:
    _address(version)
    with named_store():
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{version.name}/{version.version}{path}",
                dst_path=str(folder),
                tracking_uri=tracking_uri(),
            )
        )
