"""Whether a model was made from the same data, config and code before: then it need not be again.

The digests are version tags, so any machine that sees the registry can tell. The same work gives
the same model. One that was promoted counts whoever is champion now: else two recipes would replace
each other for ever, and a schedule would undo a rollback. One that the gate refused would be
refused again by the same champion alone, and so counts only while that one is champion.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from tasks.artifacts import sha256_file, sha256_parts
from tasks.codedigest import code_digest
from tasks.config import RunConfig
from tasks.download.fetch import local_path
from tasks.errors import WeightsError
from tasks.register.client import connect, tracking_errors
from tasks.register.files import SHA256
from tasks.register.registry import every_version, find_champion
from tasks.register.versions import PREFIX as DECISION
from tasks.register.versions import PROMOTED
from tasks.register.warm_start import SCHEME
from tasks.values import RawDataset, RegisteredModel
from tasks.work import Part, Precedent, Starts, Work

PREFIX = "graft.work."  # version tags, with the part
VALIDATION = "graft.validation_digest"
DIGESTS: tuple[Part, ...] = ("data", "config", "code")
NONE = "none"  # there was no champion
# what decides no weight, or does by content that is digested apart
ASIDE: dict[str, Any] = {
    "name": True,
    "tracking": True,
    "output": True,
    "data": {"path", "sha256", "timeout_seconds"},
    "model": {"weights", "sha256"},
    "strategy": {"teacher"},
    "training": {"threads"},
    "promotion": {"model"},
}


def describe_work(
    config: RunConfig,
    raw: RawDataset,
    registered: RegisteredModel | None,
    teacher: RegisteredModel | None,
) -> Work:
    """Return the digests of what a run of ``config`` on ``raw`` comes from.

    ``registered`` and ``teacher`` are what ``model.weights`` and ``strategy.teacher`` name, where
    they are versions of the registry. Raises ``WeightsError`` for an address that is none.
    """
    name = config.promotion.model
    settings = (
        config.model_dump_json(exclude=ASIDE),
        _weights(config, registered, name),
        _version(config.strategy.teacher, teacher, name),
    )
    return Work(
        data=raw.digest,
        config=sha256_parts(*settings),
        code=code_digest("timm" if config.model.architecture.startswith("timm:") else ""),
    )


def _weights(config: RunConfig, registered: RegisteredModel | None, name: str) -> str:
    """Return what the weights are, by content where that is at hand; names are published once."""
    source = config.model.weights
    if source is None or source.startswith(SCHEME):
        return _version(source, registered, name)
    if ":" in source and "://" not in source:  # torchvision:, timm:, graft:
        return f"{source} {config.model.sha256}"
    file = local_path(source, WeightsError)
    if file is None:
        return f"sha256 {config.model.sha256}"  # https has one
    try:
        return f"sha256 {config.model.sha256 or sha256_file(file)}"
    except OSError:  # who loads it says what is wrong with it
        return source


def _version(uri: str | None, found: RegisteredModel | None, name: str) -> str:
    """Return which version's weights ``uri`` names.

    An alias of the model that is retrained counts by its name: each promotion would else be a
    change, and lead to the next retraining.
    """
    if uri is None or found is None or uri.startswith(f"{SCHEME}{name}@"):
        return str(uri)
    return f"sha256 {found.sha256}"


def aim(name: str, work: Work, start: Starts) -> Work:
    """Return ``work`` with the starts that are to be tried, and the champion that one of them is.

    Raises ``TrackingError``.
    """
    if start == "original":
        return work
    client = connect()
    with tracking_errors(f"looking up the champion of {name}"):
        champion = find_champion(client, name)
    sha256 = None if champion is None else champion.tags.get(SHA256)
    return work.model_copy(update={"asked": start, "champion": sha256})


def work_tags(work: Work) -> dict[str, str]:
    """Return what a version says of the work that it came from."""
    said: tuple[str, ...] = (*DIGESTS, "asked", "start")
    tags = {f"{PREFIX}{part}": str(getattr(work, part)) for part in said}
    if work.asked != "original":
        tags[f"{PREFIX}champion"] = work.champion or NONE
    return tags if work.validation is None else tags | {VALIDATION: work.validation}


def find_precedent(name: str, work: Work) -> Precedent:
    """Return the version of ``name`` whose work differs least from ``work``, of those the newest.

    Only versions on which a decision stands count. Raises ``TrackingError``.
    """
    client = connect()
    with tracking_errors(f"reading what versions of {name} were made from"):
        found = [v for v in every_version(client, name) if PROMOTED in v.tags and _says(v)]
        champion = find_champion(client, name)
    if not found:
        return Precedent(version=None, changed=DIGESTS)
    number = None if champion is None else str(champion.version)
    # the newest of equals
    nearest = min(found, key=lambda version: len(_changed(version, work, number)))
    return Precedent(
        version=int(nearest.version),
        changed=_changed(nearest, work, number),
        when=datetime.fromtimestamp(nearest.creation_timestamp / 1000, UTC),
    )


def _says(version: ModelVersion) -> bool:
    return any(f"{PREFIX}{part}" in version.tags for part in DIGESTS)


def _changed(version: ModelVersion, work: Work, champion: str | None) -> tuple[Part, ...]:
    """Return what is another now than when ``version`` was made; ``champion`` is its number."""
    tags = version.tags
    parts = [part for part in DIGESTS if tags.get(f"{PREFIX}{part}") != getattr(work, part)]
    won = tags[PROMOTED] == "true" or str(version.version) == champion
    if not _tried(version, work.asked, won):
        parts.append("start")
    if not won and _is_another(version, work, champion):
        parts.append("champion")
    return tuple(parts)


def _tried(version: ModelVersion, asked: Starts, won: bool) -> bool:
    """Say whether ``version`` is what comes of the starts that are ``asked`` for.

    Of ``both`` one is registered, so a version that won is an answer, whichever start it had: were
    it none, each promotion would lead to the next retraining.
    """
    if asked == "both" and won:
        return True
    return asked in (version.tags.get(f"{PREFIX}{key}") for key in ("asked", "start"))


def _is_another(version: ModelVersion, work: Work, champion: str | None) -> bool:
    """Say whether the champion is another than the one that refused, or gave its weights."""
    if version.tags.get(f"{DECISION}champion_version") != champion:
        return True
    now = work.champion or NONE
    return work.asked != "original" and version.tags.get(f"{PREFIX}champion", now) != now
