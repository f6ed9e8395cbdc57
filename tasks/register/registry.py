"""Versions in MLflow's model registry: make, find, list, and fetch with their digest checked."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry import RegisteredModel as RegisteredModelEntity
from mlflow.exceptions import MlflowException

from tasks.artifacts import disk_errors, folder_atomic, sha256_file
from tasks.errors import TrackingError
from tasks.register.classifier import read_spec
from tasks.register.client import connect, shown_address, tracking_errors
from tasks.register.files import (
    SHA256,
    SPEC_FILE,
    WEIGHTS_FILE,
    check_file,
    damaged,
    is_listed,
    without_list,
)
from tasks.register.stored import checked_files
from tasks.values import RegisteredModel

CHAMPION = "champion"
PAGE = 100
GREATEST = 2**31 - 1  # version number that a database holds
NOTHING_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")

_WORDS = {"true": "promoted", "false": "refused"}
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionRow:
    """One version, as ``graft models`` shows it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    accuracy: float | None  # on its test set
    created: datetime  # UTC
    run_id: str
    decision: str  # promoted, refused, waiting, or "" where none was made
    reason: str


def list_versions(name: str | None = None) -> list[VersionRow]:
    """Return every version of ``name``, or of every model, newest first within a model.

    Raises ``TrackingError`` when there is no such model, or no tracking store at all.
    """
    client = connect(create=False)
    with tracking_errors("reading the model registry"):
        known = _model_names(client)
        if name is not None and name not in known:
            raise TrackingError(_no_model(name, known))
        wanted = known if name is None else [name]
        return [row for model in wanted for row in _rows(client, model)]


def fetch(uri: str, cache: Path) -> RegisteredModel:
    """Fetch ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` into ``cache``, digest checked.

    MLflow's READY says nothing about files, so each is read in the registry, and held against its
    digest, however warm the cache is. Raises ``TrackingError`` when the version is missing (it
    names what there is), or its files are missing or not those that were registered.
    """
    client = connect(create=False)
    with tracking_errors(f"fetching {uri}"):
        return fetch_version(find_version(client, uri), cache)


def find_version(client: MlflowClient, uri: str) -> ModelVersion:
    """Return the version that ``uri`` names; raises ``TrackingError`` that names what there is."""
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise TrackingError(
            f"{uri} names no registered model.\n"
            "Write models:/NAME@ALIAS (such as models:/graft@champion) or models:/NAME/VERSION."
        )
    name, alias, version = parts["name"], parts["alias"], parts["version"]
    if version is not None and int(version) > GREATEST:
        raise TrackingError(_what_there_is(client, uri, name))
    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in NOTHING_THERE:
            raise
        raise TrackingError(_what_there_is(client, uri, name)) from error


def find_champion(client: MlflowClient, name: str) -> ModelVersion | None:
    """Return the version of ``name`` that bears the alias champion, if one does."""
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in NOTHING_THERE:
            raise
        return None


def find_model(client: MlflowClient, name: str) -> RegisteredModelEntity:
    """Return the registered model ``name``; raises ``TrackingError`` that names what there is."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in NOTHING_THERE:
            raise
        raise TrackingError(_no_model(name, _model_names(client))) from error


def version_numbers(client: MlflowClient, name: str) -> set[int]:
    """Return the versions of ``name`` that are there."""
    return {int(version.version) for version in every_version(client, name)}


def fetch_version(version: ModelVersion, cache: Path) -> RegisteredModel:
    """Bring one version's weights into ``cache``, all its files in the registry checked.

    Weights that are in ``cache`` already, with the version's digest, are not copied again; that the
    registry still has all that was registered is looked at each time. Raises as ``checked_files``,
    and ``ResourceError`` when the cache takes no file.
    """
    name, number = version.name, int(version.version)
    models = cache / "models"
    with disk_errors(str(models)):
        models.mkdir(parents=True, exist_ok=True)
    if not is_listed(version):
        log.info(without_list(version))
    with checked_files(version, models) as files:
        spec = read_spec(files / SPEC_FILE)
        if spec.sha256 != version.tags.get(SHA256):
            raise damaged(version, SPEC_FILE)
        weights = _kept(version, files / WEIGHTS_FILE, models / spec.sha256)
    return RegisteredModel(
        uri=f"models:/{name}/{number}",
        name=name,
        version=number,
        architecture=spec.architecture,
        classes=spec.classes,
        input=spec.input,
        weights=weights,
        sha256=spec.sha256,
        multi_label=spec.multi_label,
        label_separator=spec.label_separator,
        temperature=spec.temperature,
        reject_below=spec.reject_below,
        novel_above=spec.novel_above,
    )


def _kept(version: ModelVersion, weights: Path, kept: Path) -> Path:
    """Return the copy of ``weights`` in the folder ``kept``, made if it is not there and whole."""
    file, sha256 = kept / weights.name, kept.name
    if not file.is_file() or sha256_file(file) != sha256:
        shutil.rmtree(kept, ignore_errors=True)  # a damaged copy
        with folder_atomic(kept) as folder:
            shutil.copyfile(weights, folder / weights.name)
            check_file(version, WEIGHTS_FILE, folder / weights.name, sha256)
    return file


def _model_names(client: MlflowClient) -> list[str]:
    names: list[str] = []
    token: str | None = None
    while token is None or token:
        page = client.search_registered_models(max_results=PAGE, page_token=token)
        names += [model.name for model in page]
        token = page.token or ""
    return sorted(names)


def _rows(client: MlflowClient, name: str) -> list[VersionRow]:
    aliases = client.get_registered_model(name).aliases  # a search leaves them out
    return [_row(version, aliases) for version in every_version(client, name)]


def every_version(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return the versions of ``name``, newest first."""
    versions: list[ModelVersion] = []
    token: str | None = None
    while token is None or token:
        page = client.search_model_versions(f"name='{name}'", max_results=PAGE, page_token=token)
        versions += page
        token = page.token or ""
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def _row(version: ModelVersion, aliases: dict[str, str]) -> VersionRow:
    tags = version.tags
    accuracy = tags.get("promotion.accuracy")
    promoted, waiting = tags.get("promotion.promoted"), tags.get("promotion.waiting")
    return VersionRow(
        name=version.name,
        version=int(version.version),
        aliases=tuple(sorted(a for a, v in aliases.items() if v == version.version)),
        accuracy=None if accuracy is None else float(accuracy),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        run_id=version.run_id or "",
        decision=_WORDS.get(promoted or "", "") if waiting != "True" else "waiting",
        reason=tags.get("promotion.reason", ""),
    )


def _no_model(name: str, known: list[str]) -> str:
    there = f"There is: {', '.join(known)}." if known else "No model is registered here yet."
    return f"There is no registered model {name} at {shown_address()}.\n{there}"


def _what_there_is(client: MlflowClient, uri: str, name: str) -> str:
    known = _model_names(client)
    if name not in known:
        return _no_model(name, known)
    rows = _rows(client, name)
    found = [f"{r.version}{''.join(f' @{a}' for a in r.aliases)}" for r in rows]
    return f"There is no {uri}.\nVersions of {name}: {', '.join(found) or 'none'}."
