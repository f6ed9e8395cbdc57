"""What a process of a Ray cluster takes over from the command before it does its work.

Ray starts its processes with the environment of the machine, not with the command's. Settings go
with the work, where Ray's pages and logs do not show them: they may hold credentials.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.console import OURS
from flows.engines import Do
from tasks.errors import ConfigError, GraftError
from tasks.register.address import URI, tracking_uri
from tasks.register.client import connect
from tasks.register.facts import graft_version
from tasks.register.processes import FLOW_RUN

CACHE = "GRAFT_CACHE"
TOKEN = ".graft-token"  # noqa: S105 - a file's name
KNOCK_SECONDS = 8.0

Warned = tuple[str, int, str, str]  # logger, level, room, words

_kept: set[str] = set()  # tokens of the terms that this process has been held to


@dataclass(frozen=True)
class Terms:
    """What must hold in every process of a cluster, and the settings that it takes over."""

    versions: dict[str, str]
    folders: tuple[Path, ...]  # each with a file that holds the token
    token: str
    tracked: bool
    prefect: str  # address of the API
    environment: dict[str, str]
    folder: Path  # that the command was started in


@dataclass(frozen=True)
class Away:
    """Work for a process of a cluster, which is looked at first: machines may have joined."""

    terms: Terms
    do: Do | None = None

    def doing(self, do: Do) -> Away:
        """Return this with the function that does the work."""
        return replace(self, do=do)

    def __call__(self, given: Any) -> Told:  # noqa: ANN401 - as ``do``
        """Do it here; raises ``ConfigError`` in a process that is not as it must be."""
        assert self.do is not None
        words = fault(self.terms)
        if words:
            raise ConfigError(f"{platform.node()} cannot do the work: {words}")
        with _warnings() as records:
            result = self.do(given)
        return Told(result, tuple(records))


@dataclass(frozen=True)
class Told:
    """What ``do`` returned, and the warnings of graft's that it gave meanwhile."""

    result: Any
    warnings: tuple[Warned, ...]

    def say(self) -> None:
        """Give the warnings again, where somebody reads them: Ray's own way is by standard output.

        A cluster's processes print into files of their machines.
        """
        for name, level, room, words in self.warnings:
            extra = {"room": room} if room else {}
            logging.getLogger(name).log(level, words, extra=extra)


class _Kept(logging.Handler):
    """Keeps warnings."""

    def __init__(self, records: list[Warned]) -> None:
        super().__init__(logging.WARNING)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        room = getattr(record, "room", "")
        self._records.append((record.name, record.levelno, room, record.getMessage()))


@contextmanager
def _warnings() -> Iterator[list[Warned]]:
    records: list[Warned] = []
    keeper = _Kept(records)
    for name in OURS:
        logging.getLogger(name).addHandler(keeper)
    try:
        yield records
    finally:
        for name in OURS:
            logging.getLogger(name).removeHandler(keeper)


def versions() -> dict[str, str]:
    """Return what must be the same everywhere for figures to be the same."""
    import torch

    return {
        "graft": graft_version(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "torch": ".".join(torch.__version__.split(".")[:2]),
    }


def environment() -> dict[str, str]:
    """Return the settings of this process that work needs elsewhere."""
    names = [name for name in os.environ if name.startswith("MLFLOW_")]
    found = {name: os.environ[name] for name in (*names, CACHE, FLOW_RUN) if name in os.environ}
    if CACHE in found:
        found[CACHE] = str(Path(found[CACHE]).expanduser().absolute())
    return found | {URI: tracking_uri()}


def fault(terms: Terms) -> str:
    """Take the settings over, and say in two lines what is not as it must be; else nothing."""
    os.environ.update(terms.environment)
    if terms.folder.is_dir():  # where the git commit of a run's tags is read
        os.chdir(terms.folder)
    if terms.token in _kept:
        return ""
    words = _first_fault(terms)
    if not words:
        _kept.add(terms.token)
    return words


def _first_fault(terms: Terms) -> str:
    here = versions()
    for name, wanted in terms.versions.items():
        if here[name] != wanted:
            return f"it has {name} {here[name]}, the command has {wanted}.\nInstall the same."
    for folder in terms.folders:
        words = _folder_fault(folder, terms.token)
        if words:
            return words
    try:
        if terms.tracked:
            connect(create=False)
    except GraftError as error:
        return str(error)
    return _prefect_fault(terms.prefect)


def _folder_fault(folder: Path, token: str) -> str:
    """Say whether this process sees a folder as the command does, and may write there."""
    trial = folder / f"{TOKEN}-{token}-{platform.node()}-{os.getpid()}"
    try:
        seen = (folder / f"{TOKEN}-{token}").read_bytes() == token.encode()
        if seen:
            trial.touch()
            trial.unlink()
    except OSError as error:
        return f"{folder}: {error.strerror}.\nMount it there too, by the same path and writable."
    return "" if seen else f"{folder} is another folder there.\nMount the command's there."


def _prefect_fault(api: str) -> str:
    import httpx

    try:
        httpx.get(f"{api}/health", timeout=KNOCK_SECONDS)
    except httpx.HTTPError as error:
        return f"Prefect's {api} does not answer: {error}.\nSet PREFECT_API_URL to what all reach."
    return ""
