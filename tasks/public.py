"""What may be shown to all who see a run: its config without the secrets in addresses."""

from __future__ import annotations

from urllib.parse import urlsplit

from tasks.config import RunConfig
from tasks.download.https import shown

HIDDEN = "?…"  # in the place of an address's query


def public_config(config: RunConfig) -> RunConfig:
    """Return ``config`` as it may be shown to all who see a run: without secrets in addresses."""
    data, model = config.data, config.model
    if data.path is not None:
        data = data.model_copy(update={"path": without_secrets(data.path)})
    if model.weights is not None:
        model = model.model_copy(update={"weights": without_secrets(model.weights)})
    return config.model_copy(update={"data": data, "model": model})


def without_secrets(source: str) -> str:
    """Return a web address without credentials and query (a signature, a token); else ``source``.

    Three dots stand for the query, so that nobody takes the address for the whole of it.
    """
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https"):
        return source
    return shown(source) + (HIDDEN if parts.query else "")
