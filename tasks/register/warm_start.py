"""Which registered models a run starts or learns from; this file imports without MLflow."""

from __future__ import annotations

from pathlib import Path

from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.values import RegisteredModel

SCHEME = "models:/"


def fetch_named(
    config: RunConfig, cache: Path, version: str | None = None
) -> RegisteredModel | None:
    """Fetch the model that ``model.weights`` names, if it is one of the registry's.

    ``version`` is what an alias there named when the run was begun, as models:/NAME/VERSION.
    Raises as ``tasks.register.registry.fetch``.
    """
    uri = config.model.weights or ""
    if not uri.startswith(SCHEME):
        return None
    from tasks.register.registry import fetch  # MLflow takes seconds to import

    return fetch(version or uri, cache)


def fetch_teacher(
    config: RunConfig, cache: Path, version: str | None = None
) -> RegisteredModel | None:
    """Fetch the model that ``strategy.teacher`` names, if the run has a teacher.

    ``version`` is as in ``fetch_named``.
    Raises ``ConfigError`` for a name that is none of the registry's and for a teacher that gives an
    image one label where the data gives it any number, or the other way round; and as
    ``tasks.register.registry.fetch``.
    """
    uri = config.strategy.teacher
    if uri is None:
        return None
    if not uri.startswith(SCHEME):
        raise ConfigError(
            f"strategy.teacher is {uri}, which names no registered model.\n"
            "Write models:/NAME@ALIAS, such as models:/graft@champion."
        )
    from tasks.register.registry import fetch

    teacher = fetch(version or uri, cache)
    if teacher.multi_label != config.data.multi_label:
        raise ConfigError(
            f"strategy.teacher={uri} has multi_label={str(teacher.multi_label).lower()}, the data "
            "the opposite.\nName a teacher that was trained on labels of the same kind."
        )
    return teacher
