"""Which registered versions go: the old ones that bear no alias and that nothing which stays needs.

What is removed is asked about once more, under the lock that every move of an alias by graft takes,
right before it goes: MLflow drops the aliases of a version that it deletes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.cleanupconfig import VersionsRule
from tasks.errors import GraftError, TrackingError
from tasks.leftovers import Item, days_since
from tasks.register.client import connect, named_store, tracking_errors
from tasks.register.files import SHA256
from tasks.register.history import MOVING, Note
from tasks.register.journal import turn
from tasks.register.registry import PAGE
from tasks.register.versions import PREFIX, PROMOTED, source_of

EXPORT = "graft.export."  # version tag, with the format
# version tags whose digest is that of another version's weights
NEEDS = {"graft.backbone_sha256": "started from it", "graft.teacher_sha256": "was taught by it"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """A version, as far as it matters here."""

    name: str
    number: int
    created: datetime  # UTC
    tags: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    moving: bool = False  # an alias of its model is on its way
    run_id: str = ""
    model_id: str = ""  # "": its files are not of a logged model

    @property
    def title(self) -> str:
        """Return what the version is called."""
        return f"{self.name}/{self.number}"


def plan_versions(rule: VersionsRule) -> list[Item]:
    """Return every version of the models that ``rule`` is about, and whether it goes.

    Raises ``TrackingError``.
    """
    client = connect(create=False)
    with tracking_errors("reading the model registry"):
        known = _read(client)
        stay = reasons(known, rule)
        return [_item(client, one, rule, stay.get(one.title)) for one in known if _asked(one, rule)]


def needed_runs() -> dict[str, str]:
    """Return by the digest of their weights which versions' run folders stay, in words.

    Those are versions with an alias and those that wait for one. Raises ``TrackingError``.
    """
    client = connect(create=False)
    with tracking_errors("reading the model registry"):
        return {
            one.tags[SHA256]: f"{one.title} came from it ({why})"
            for one in _read(client)
            if SHA256 in one.tags and (why := _standing(one))
        }


def reasons(known: Sequence[Known], rule: VersionsRule) -> dict[str, str]:
    """Return why each version stays that does; ``known`` holds every version of the registry.

    What a version that stays was started from or taught by stays as well, of whatever model.
    """
    stay = {one.title: why for one in known if (why := _own_reason(one, known, rule))}
    while True:
        more = {
            other.title: f"{one.title} {how}"
            for one in known
            if one.title in stay
            for tag, how in NEEDS.items()
            for other in known
            if one.tags.get(tag, "none") == other.tags.get(SHA256) and other.title not in stay
        }
        if not more:
            return stay
        stay |= more


def _own_reason(one: Known, known: Iterable[Known], rule: VersionsRule) -> str:
    """Return why a version stays for its own sake, or "" where it does not."""
    if not _asked(one, rule):
        return "not asked for"
    if why := _standing(one):
        return why
    if one.moving:
        return f"an alias of {one.name} is being moved"
    if PROMOTED not in one.tags:
        return "no decision stands on it: in the making, or not graft's"
    formats = sorted(tag.removeprefix(EXPORT) for tag in one.tags if tag.startswith(EXPORT))
    if formats:
        return f"exported ({', '.join(formats)})"
    if sum(o.name == one.name and o.number > one.number for o in known) < rule.keep:
        return f"among the newest {rule.keep}"
    return f"younger than {rule.days:g} days" if days_since(one.created) < rule.days else ""


def _asked(one: Known, rule: VersionsRule) -> bool:
    return rule.models is None or one.name in rule.models


def _standing(one: Known) -> str:
    """Return what a version is in service as, or is to be."""
    if one.aliases:
        return f"alias {', '.join(one.aliases)}"
    return "waiting for approval" if one.tags.get(f"{PREFIX}waiting") == "True" else ""


def _read(client: MlflowClient) -> list[Known]:
    """Return every version of the registry, the newest of each model first."""
    found: list[ModelVersion] = []
    token: str | None = None
    while token is None or token:
        page = client.search_model_versions(max_results=PAGE, page_token=token)
        found += page
        token = page.token or ""
    models = {name: client.get_registered_model(name) for name in {v.name for v in found}}
    known = [_known(version, models[version.name]) for version in found]
    return sorted(known, key=lambda one: (one.name, -one.number))


def _known(version: ModelVersion, model: object) -> Known:
    aliases: dict[str, str] = getattr(model, "aliases", {})
    tags: dict[str, str] = getattr(model, "tags", {})
    source = str(version.source or "")
    return Known(
        name=version.name,
        number=int(version.version),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        tags=dict(version.tags),
        aliases=tuple(sorted(a for a, v in aliases.items() if int(v) == int(version.version))),
        moving=any(tag.startswith(MOVING) for tag in tags),
        run_id=version.run_id or "",
        model_id=source.removeprefix(source_of("")) if source.startswith(source_of("m-")) else "",
    )


def _item(client: MlflowClient, one: Known, rule: VersionsRule, why: str | None) -> Item:
    item = Item(
        kind="version",
        name=one.title,
        size=None,
        last_use=one.created,
        goes=True,
        why=f"older than {rule.days:g} days, and nothing needs it",
    )
    if why is not None:
        return item.kept(why)
    return item.model_copy(update={"size": _size(client, one.model_id)})


def _size(client: MlflowClient, model_id: str, path: str | None = None) -> int | None:
    """Return how many bytes a logged model's files have, where it says."""
    if not model_id:
        return None
    try:
        with named_store():
            entries = client.list_logged_model_artifacts(model_id, path)
    except (MlflowException, OSError, TrackingError):  # gone, or at a host that is not asked
        return None
    sizes = [
        _size(client, model_id, entry.path) if entry.is_dir else entry.file_size
        for entry in entries
    ]
    return sum(size or 0 for size in sizes)


def remove_version(rule: VersionsRule, item: Item) -> Item:
    """Delete the version of ``item`` and its files, unless there is a reason by now why it stays.

    With ``rule.mlflow_runs`` the MLflow run that made it as well. Raises ``TrackingError``, also
    where the lock of the registered model is not to be had.
    """
    client = connect(create=False)
    name = item.name.rpartition("/")[0]
    with tracking_errors(f"removing version {item.name}"):
        with turn(client, name) as mine:
            known = _read(client)
            one = next((one for one in known if one.title == item.name), None)
            if one is None:
                return item.kept("gone meanwhile")
            why = reasons(known, rule).get(one.title)
            if why is not None:
                return item.kept(f"{why}, by now")
            mine.confirm()
            client.delete_model_version(name, str(one.number))
            mine.move({}, Note("removed", one.number, item.why))
        rest = [other for other in known if other is not one]
        _remove_files(client, one, rest)
        if rule.mlflow_runs and one.run_id and one.run_id not in {o.run_id for o in rest}:
            client.delete_run(one.run_id)
    log.info("removed version %s", item.name)
    return item.model_copy(update={"removed": True})


def _remove_files(client: MlflowClient, one: Known, rest: Iterable[Known]) -> None:
    """Remove the logged model behind a version, which no other has; a fault leaves files behind."""
    if not one.model_id or one.model_id in {other.model_id for other in rest}:
        return
    try:
        with tracking_errors(f"removing the files of {one.title}"), named_store():
            place = str(client.get_logged_model(one.model_id).artifact_location)
            client.delete_logged_model(one.model_id)
            parts = unquote(place).split("/")
            if one.model_id in parts and ".." not in parts:  # its own folder, and no other's
                get_artifact_repository(place).delete_artifacts()
    except GraftError as fault:
        log.warning("files of %s are left behind: %s", one.title, fault)
