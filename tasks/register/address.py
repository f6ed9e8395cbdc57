"""Where runs and models are kept: MLflow's tracking address, and how it may be shown."""

from __future__ import annotations

import os
from pathlib import Path

URI = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, else ``sqlite:///`` of mlruns/mlflow.db in this folder."""
    named = os.environ.get(URI)
    return named or f"{SQLITE}{Path.cwd() / 'mlruns' / 'mlflow.db'}"


def shown_address(words: str | None = None) -> str:
    """Return ``tracking_uri()``, or ``words`` that quote it, without its login and its query."""
    uri = tracking_uri()
    return (uri if words is None else words).replace(uri, _without_login(uri))


def _without_login(uri: str) -> str:
    """Take off all up to the last ``@`` first: a password may have ``/`` and ``?`` in it."""
    scheme, slashes, rest = uri.partition("//")
    if uri.startswith((SQLITE, "file:")):
        return uri.partition("?")[0]
    login, _, place = rest.rpartition("@")
    if "=" in login.partition("?")[2]:  # a query with an @, or a password like one: hide both
        place = "…"
    return scheme + slashes + place.partition("?")[0]


def artifact_root() -> str | None:
    """Return where a new experiment keeps its files; ``None`` leaves it to the server.

    Beside the sqlite database, so that moving into another folder does not split a run in two.
    """
    uri = tracking_uri()
    if not uri.startswith(SQLITE):
        return None
    return (database_file(uri).parent / "artifacts").as_uri()


def database_file(uri: str) -> Path:
    """Return the absolute path of the file that a ``sqlite:///`` address names."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]).absolute()
