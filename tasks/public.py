"""What may be shown to all who see a run: its config without the secrets in addresses."""

from __future__ import annotations

from urllib.parse import urlsplit

from tasks.config import RunConfig
from tasks.download.https import shown
from tasks.errors import ConfigError
from tasks.secrets import MARK, check_places

HIDDEN = "?…"  # in the place of an address's query


def public_config(config: RunConfig) -> RunConfig:
    """Return ``config`` as it may be shown to all who see a run: without secrets in addresses."""
    data, model = config.data, config.model
    if data.path is not None:
        data = data.model_copy(update={"path": without_secrets(data.path)})
    if model.weights is not None:
        model = model.model_copy(update={"weights": without_secrets(model.weights)})
    return config.model_copy(update={"data": data, "model": model})


def check_no_secrets(config: RunConfig) -> None:
    """Raise ``ConfigError`` for what Prefect would show of a config: it keeps the parameters.

    That is a query without a named secret: it may be a signature or a token.
    """
    for key, source in (("data.path", config.data.path), ("model.weights", config.model.weights)):
        if source is None:
            continue
        check_places(source, ConfigError)
        query = urlsplit(source).query if source.startswith("https://") else ""
        if query and MARK not in query:
            raise ConfigError(
                f"{key} has a query, {HIDDEN}, which all who see Prefect's pages could read.\n"
                "Keep it as a secret, and write ?${secret:NAME}: see docs/operating.md."
            )


def without_secrets(source: str) -> str:
    """Return a web address without credentials and query (a signature, a token); else ``source``.

    Three dots stand for the query, so that nobody takes the address for the whole of it.
    """
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https"):
        return source
    return shown(source) + (HIDDEN if parts.query else "")
