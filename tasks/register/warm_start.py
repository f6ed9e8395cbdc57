"""Whether a run starts from a registered model; this file imports without MLflow."""

from __future__ import annotations

from pathlib import Path

from tasks.config import RunConfig
from tasks.values import RegisteredModel

SCHEME = "models:/"


def fetch_named(config: RunConfig, cache: Path) -> RegisteredModel | None:
    """Fetch the model that ``model.weights`` names, if it is one of the registry's.

    Raises as ``tasks.register.registry.fetch``.
    """
    uri = config.model.weights or ""
    if not uri.startswith(SCHEME):
        return None
    from tasks.register.registry import fetch  # MLflow takes seconds to import

    return fetch(uri, cache)
