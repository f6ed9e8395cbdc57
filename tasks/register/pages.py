"""Where MLflow's own pages show a run."""

from __future__ import annotations

from urllib.parse import quote

from tasks.public import without_secrets
from tasks.register.client import tracking_uri


def file_page(experiment_id: str, run_id: str, path: str) -> str | None:
    """Return the address at which MLflow's pages show the file ``path`` of a run.

    None where tracking is no server, so that nothing answers until ``graft ui`` is started.
    """
    uri = without_secrets(tracking_uri()).rstrip("/")
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{uri}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}"
