"""Where the machines of a training meet: torch's key-value store, on the first of them.

It is plain TCP and asks nobody for a password, as torchrun's: the network between the machines must
be private. All that crosses it is text, and a job is JSON: who reads it runs nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from tasks.errors import ConfigError, ResourceError

LOOPBACK = "127.0.0.1"
VARIABLE = "GRAFT_MEETING"
END = "end"  # the exit code of the first node's command
NODES = "nodes"


class Place(BaseModel):
    """Where the machines meet, and how long they wait for each other."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int
    nodes: int
    patience: float  # seconds that a node may take to come, and to be ready for a job
    silence: float  # seconds after which a node that says nothing counts as lost
    folder: Path | None = None  # on the first node: of the lock by which trainings take turns

    @property
    def address(self) -> str:
        """Return host and port."""
        return f"{self.host}:{self.port}"


class Session(BaseModel):
    """One training over several machines, as one of them sees it."""

    place: Place
    number: int  # of the job, from 0
    node: int  # of this machine, from 0

    def key(self, *parts: object) -> str:
        """Return where something about this job stands in the store."""
        return "/".join(map(str, ("job", self.number, *parts)))


class Meeting:
    """A line to the store; a thread needs one of its own, for calls on a line wait in turn.

    Every call raises ``ResourceError`` when the first node is gone.
    """

    def __init__(self, place: Place, store: Store | None = None) -> None:
        self.place = place
        with store_errors(place):
            self._store = store or connect(place)

    def say(self, key: str, words: str) -> None:
        """Write ``words`` down."""
        with store_errors(self.place):
            self._store.set(key, words)

    def hear(self, key: str) -> str | None:
        """Return what was written down, None where nothing was."""
        with store_errors(self.place):
            return self._store.get(key).decode() if self._store.check([key]) else None

    def say_first(self, key: str, words: str) -> bool:
        """Write ``words`` down unless something was; tell whether they stand there."""
        with store_errors(self.place):
            return bool(self._store.compare_set(key, "", words).decode() == words)

    def count(self, key: str) -> int:
        """Return 0, then 1, and so on, whoever asks."""
        with store_errors(self.place):
            return int(self._store.add(key, 1)) - 1


def connect(place: Place) -> Store:
    """Return a line to the store; raises torch's ``DistError``."""
    try:  # where nobody listens, torch alone would try again for minutes
        socket.create_connection((place.host, place.port), timeout=place.silence).close()
    except OSError as error:
        raise dist.DistNetworkError(str(error)) from error
    return TCPStore(place.host, place.port, None, False, timedelta(seconds=place.silence))


def connect_for(session: Session, what: str) -> Store:
    """Return a line to the part of the store that a job has for ``what``, as ``connect`` does."""
    return PrefixStore(session.key(what), connect(session.place))


def open_store(place: Place, listener: socket.socket) -> Store:
    """Start the store on a socket that listens already, so on one address of the machine alone."""
    store = TCPStore(
        place.host,
        place.port,
        None,
        True,
        timedelta(seconds=place.silence),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    store.set(NODES, str(place.nodes))
    return store


@contextmanager
def store_errors(place: Place) -> Iterator[None]:
    """Turn torch's errors of a store that is gone into a ``ResourceError``."""
    try:
        yield
    except dist.DistError as error:
        raise lost(place) from error


def lost(place: Place) -> ResourceError:
    """Return what is said when the first node is gone."""
    return ResourceError(
        f"The first node, at {place.address}, does not answer any more.\n"
        "See what ended it, and start all nodes again."
    )


def named_place() -> Place | None:
    """Return where the machines meet that this process's command was started for."""
    words = os.environ.get(VARIABLE)
    return None if words is None else Place.model_validate_json(words)


def check_nodes(nodes: int) -> Place | None:
    """Return where ``training.nodes`` machines meet, None for one machine alone.

    Raises ``ConfigError`` where the command was started for another number of machines.
    """
    place = named_place()
    started = 1 if place is None else place.nodes
    if started == nodes:
        return place
    if place is None:
        raise ConfigError(
            f"training.nodes={nodes}, and nobody waits on the other machines.\n"
            f"Start it by python -m tasks.finetune.node --nodes {nodes} …: see docs/scale.md."
        )
    raise ConfigError(
        f"training.nodes={nodes}, but the command was started for {started} nodes.\n"
        f"Set training.nodes={started}, or start it for {nodes}."
    )
