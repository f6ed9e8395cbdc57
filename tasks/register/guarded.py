"""No host is asked for files, or given any, that ``hosts`` refuses, whatever of MLflow's asks.

Runs, logged models and versions have places for files, which the tracking server tells and whoever
may write to it can choose. MLflow reads, writes and deletes there, and sends logins with it. What
opens a place is one list of its; the schemes that name a host are wrapped there, before the first
connection: some open one as they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories

from tasks.errors import TrackingError
from tasks.register.address import tracking_uri
from tasks.register.hosts import PORTS, PROXIED, VARIABLE, refused_host

Opens = Callable[..., ArtifactRepository]


def guard() -> None:
    """Make MLflow raise ``TrackingError`` in this process where it would ask another host.

    Once is enough; again it changes nothing.
    """
    known: dict[str, Any] = get_registered_artifact_repositories()
    for scheme in (*PORTS, PROXIED):
        if not hasattr(known[scheme], "guarded"):
            known[scheme] = _guarded(known[scheme])


def _guarded(opens: Opens) -> Opens:
    @wraps(opens, updated=())
    def open_checked(
        artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> ArtifactRepository:
        refuse_host(artifact_uri, tracking_uri)
        return opens(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)

    open_checked.guarded = True  # type: ignore[attr-defined]
    return open_checked


def refuse_host(place: str, server: str | None = None) -> None:
    """Raise ``TrackingError`` where files of ``place`` are at a host that is not to be asked.

    ``server`` is the tracking server that told the place, by default ``tracking_uri()``'s.
    """
    refused = refused_host(place, server or tracking_uri())
    if refused is not None:
        raise TrackingError(
            f"Files of a run or a model are said to be at {refused}, not at the tracking server: "
            f"nothing was asked there, or sent.\nName that host in {VARIABLE}, if you know it and "
            "trust it with your logins."
        )
