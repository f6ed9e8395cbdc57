"""A place for a run: a new folder, or that of a run of the same config that was not finished."""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.artifacts import new_folder, sha256_bytes, user_folder, write_atomic
from tasks.codedigest import code_digest
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.errors import RESUME, ConfigError
from tasks.public import public_config
from tasks.unfinished import (
    BEGUN,
    FOLDER,
    Begun,
    Place,
    alone_in,
    can_go_on,
    sweep,
    write_begun,
)
from tasks.use import in_use

WORDS = f"{RESUME}graft run CONFIG --resume goes on"
_LESS = "Leave out --resume to begin a run."
_NAMED = 3  # values that a message names

log = logging.getLogger(__name__)


@contextmanager
def place_of(config: RunConfig, resume: bool) -> Iterator[Place]:
    """Yield the run's place, held until the block ends; with ``resume`` the one left unfinished.

    On any error the folder is removed, unless the run can go on from it. Raises ``ConfigError``
    where there is nothing to resume, or something else than ``config`` says.
    """
    with ExitStack() as held:
        place = _found(config) if resume else _made(config)
        held.enter_context(alone_in(place.folder))
        held.enter_context(in_use([place.folder]))
        if resume:
            sweep(place.folder)
            log.info("going on in %s", place.folder, extra={"room": "resume"})
        try:
            yield place
        except BaseException as error:
            if not can_go_on(place.folder):
                shutil.rmtree(place.folder, ignore_errors=True)
            elif not isinstance(error, Exception):
                error.add_note(WORDS)
            raise


def _made(config: RunConfig) -> Place:
    begun = Begun(
        token=secrets.token_hex(16),
        config=_digest(config),
        code=_code(config),
        shown=public_config(config).model_dump(mode="json"),
    )
    name = f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    with new_folder(user_folder(config.output.folder), name) as folder:
        (folder / FOLDER).mkdir()
        write_begun(folder, begun)
        write_atomic(folder / "config.yaml", dump_config(public_config(config)).encode())
    return Place(folder, begun, resumed=False)


def _digest(config: RunConfig) -> str:
    return sha256_bytes(config.model_dump_json(exclude={"output": True}).encode())


def _code(config: RunConfig) -> str:
    return code_digest("timm" if config.model.architecture.startswith("timm:") else "")


def _found(config: RunConfig) -> Place:
    """Return the newest unfinished run of ``config``."""
    root = user_folder(config.output.folder)
    found = [one for one in _unfinished(root) if one.begun.shown.get("name") == config.name]
    same = [place for place in found if place.begun.config == _digest(config)]
    if not same:
        raise ConfigError(_why_none(config, root, found))
    place = same[0]
    if place.begun.code != _code(config):
        raise ConfigError(
            f"{place.folder} was begun with other code of graft, or another torch, than is here.\n"
            "Resume with the version that began it, or leave out --resume."
        )
    return place


def _unfinished(root: Path) -> list[Place]:
    """Return every unfinished run below ``root``, the newest first."""
    paths = sorted(root.glob(f"*/{FOLDER}/{BEGUN}"), key=_changed, reverse=True)
    places = []
    for path in paths:
        try:
            begun = Begun.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            log.warning("%s is not read: %s", path, str(error).partition("\n")[0])
        else:
            places.append(Place(path.parent.parent, begun, resumed=True))
    return places


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # finished meanwhile
        return 0.0


def _why_none(config: RunConfig, root: Path, others: list[Place]) -> str:
    """Say why there is nothing to resume, in two lines."""
    if others:
        shown = public_config(config).model_dump(mode="json")
        differing = sorted(_differing(shown, others[0].begun.shown))
        some = ", ".join(differing[:_NAMED]) or "a secret"
        more = " and more" if len(differing) > _NAMED else ""
        return (
            f"{others[0].folder} was begun with another config: {some}{more} differs.\n"
            f"Resume with the values it was begun with. {_LESS}"
        )
    done = _finished(config, root)
    if done is not None:
        return f"The run in {done} is finished: there is nothing to resume.\n{_LESS}"
    return f"There is no unfinished run of this config in {root}.\n{_LESS}"


def _differing(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:  # noqa: ANN401 - JSON
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        if ours != theirs:
            yield place
        return
    for key in ours.keys() | theirs.keys():
        if place or key != "output":
            dotted = f"{place}.{key}" if place else key
            yield from _differing(ours.get(key), theirs.get(key), dotted)


def _finished(config: RunConfig, root: Path) -> Path | None:
    """Return the newest folder of a finished run of ``config``, if there is one."""
    text = dump_config(public_config(config))
    for folder in sorted(root.glob(f"{config.name}-*"), reverse=True):
        path = folder / "config.yaml"
        if (folder / "report.json").is_file() and path.is_file() and path.read_text() == text:
            return folder
    return None
