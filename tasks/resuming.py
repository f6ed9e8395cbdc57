"""A place for a run: a new folder, or that of a run of the same config that was not finished."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.artifacts import disk_errors, sha256_bytes, user_folder
from tasks.codedigest import code_digest
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.errors import RESUME, ConfigError
from tasks.public import public_config
from tasks.runfolder import begin_folder
from tasks.unfinished import (
    BEGUN,
    FOLDER,
    LOCK,
    Begun,
    Place,
    can_go_on,
    is_unfinished,
    remove_rest,
    sweep,
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
        if resume:
            place = _found(config, held)
        else:
            place = _made(config)
            held.enter_context(_alone_in(place))
        held.enter_context(in_use([place.folder]))
        if resume:
            sweep(place.folder)
            log.info("going on in %s", place.folder, extra={"room": "resume"})
        try:
            yield place
        except BaseException as error:
            _leave(place.folder, error)
            raise


def _leave(folder: Path, error: BaseException) -> None:
    """Remove a folder on an error, or, where the run can go on in it, say so."""
    if not is_unfinished(folder):  # Ctrl-C came after the end: all of it is wanted
        return
    if not can_go_on(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif not isinstance(error, Exception):
        error.add_note(WORDS)
    elif str(folder) not in str(error):
        log.warning("%s is kept: the same command with --resume goes on there", folder)


@contextmanager
def _alone_in(place: Place) -> Iterator[None]:
    """Hold an unfinished run, and remove what it needs no more where it is finished in the block.

    Raises ``ConfigError`` where another process holds it, or has finished it meanwhile.
    """
    path = place.inner / LOCK
    try:
        with disk_errors(str(path)):
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ConfigError(_done(place.folder)) from error
    try:
        _lock(place, handle)
        yield
    finally:
        os.close(handle)  # first: NFS keeps a file that is open, and the folder with it
        if place.inner.exists() and not is_unfinished(place.folder):
            remove_rest(place.folder)


def _lock(place: Place, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"The run in {place.folder} still goes on in another process.\n"
            "Wait for it, or stop it first."
        ) from error
    now = _begun(place.inner / BEGUN)
    if now is None or now.token != place.begun.token:  # it was read before the lock was had
        raise ConfigError(_done(place.folder))


def _done(folder: Path) -> str:
    return f"The run in {folder} is finished: there is nothing to resume.\n{_LESS}"


def _made(config: RunConfig) -> Place:
    begun = Begun(
        token=secrets.token_hex(16),
        config=_digest(config),
        code=_code(config),
        shown=public_config(config).model_dump(mode="json"),
        since=_moment(user_folder(config.output.folder)),
    )
    return Place(begin_folder(config, begun), begun, resumed=False)


def _moment(root: Path) -> float:
    """Return the time, or one after the unfinished runs' where the clock was set back."""
    before = [one.begun.since for one in _unfinished(root)]
    return max([time.time(), *(math.nextafter(since, math.inf) for since in before)])


def _digest(config: RunConfig) -> str:
    return sha256_bytes(config.model_dump_json(exclude={"output": True}).encode())


def _code(config: RunConfig) -> str:
    return code_digest("timm" if config.model.architecture.startswith("timm:") else "")


def _found(config: RunConfig, held: ExitStack) -> Place:
    """Return, and hold, the newest unfinished run of ``config`` that can be gone on with here."""
    root = user_folder(config.output.folder)
    _sweep_finished(root)
    found = [one for one in _unfinished(root) if one.begun.shown.get("name") == config.name]
    same = [place for place in found if place.begun.config == _digest(config)]
    problems = []
    for place in same:
        try:
            _compare_code(config, place)
            held.enter_context(_alone_in(place))
        except ConfigError as error:
            problems.append(error)
        else:
            return place
    raise problems[0] if problems else ConfigError(_why_none(config, root, found))


def _compare_code(config: RunConfig, place: Place) -> None:
    if place.begun.code != _code(config):
        raise ConfigError(
            f"{place.folder} was begun with other code of graft, or another torch, than is here.\n"
            "Resume with the version that began it, or leave out --resume."
        )


def _unfinished(root: Path) -> list[Place]:
    """Return every unfinished run below ``root``, the newest first; files' dates do not count."""
    read = [(path.parent.parent, _begun(path)) for path in root.glob(f"[!.]*/{FOLDER}/{BEGUN}")]
    places = [Place(folder, begun, resumed=True) for folder, begun in read if begun is not None]
    # a copy, whose name is longer, comes after what it is a copy of
    return sorted(places, key=lambda one: (-one.begun.since, len(one.folder.name)))


def _begun(path: Path) -> Begun | None:
    """Return what a run was begun with; None, and a warning, where that cannot be read."""
    try:
        return Begun.model_validate_json(path.read_bytes())
    except FileNotFoundError:  # finished meanwhile
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s is not read: %s", path, str(error).partition("\n")[0])
        return None


def _sweep_finished(root: Path) -> None:
    """Remove what is left in folders of runs that were killed between their end and its removal."""
    for inner in root.glob(f"[!.]*/{FOLDER}"):
        folder = inner.parent  # one without a report has just been made, and begins
        if (folder / "report.json").is_file() and not is_unfinished(folder):
            remove_rest(folder)


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
        return _done(done)
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
        try:
            same = (folder / "config.yaml").read_text() == text
        except (OSError, ValueError):  # it has none, or one that is not ours to read
            continue
        if same and (folder / "report.json").is_file():
            return folder
    return None
