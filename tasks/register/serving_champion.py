"""The version that is served, and a look at the registry now and then for the next one."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from tasks.errors import GraftError, TrackingError, TransientTrackingError
from tasks.register.classifier import Classifier
from tasks.register.client import connect, tracking_errors
from tasks.register.predict import classifier_of
from tasks.register.registry import CHAMPION, fetch, find_version
from tasks.register.warm_start import SCHEME

LONGEST_WAIT = 600.0  # seconds between two tries of a version that could not be taken

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Served:
    """A version in memory, and when it began to be served."""

    name: str
    version: int
    classifier: Classifier
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


def uri_of(named: str) -> str:
    """Return ``models:/NAME@champion`` for a NAME, and any models:/ address as it is."""
    return named if named.startswith(SCHEME) else f"{SCHEME}{named}@{CHAMPION}"


def load(name: str, version: int, cache: Path) -> Served:
    """Fetch a version, its files in the registry checked, build it, and run one image through it.

    The first image is slow on a GPU, where kernels are chosen and loaded, so no request should be
    it. Raises ``TrackingError`` and ``WeightsError`` for files that are missing or damaged.
    """
    classifier = classifier_of(fetch(f"{SCHEME}{name}/{version}", cache))
    crop = classifier.spec.crop
    classifier.classify([torch.zeros((1, crop, crop, 3), dtype=torch.uint8)])
    return Served(name, version, classifier)


class Champion:
    """Holds the version that requests take, and replaces it when the alias moves.

    ``current`` is read once by a request, which then ends on that version: the reference is swapped
    whole, and the old version is freed with the last request that holds it.
    """

    def __init__(self, uri: str, cache: Path) -> None:
        """Load what ``uri`` names; raises ``TrackingError`` that says how to get a champion."""
        self.uri = uri
        self.problem: str | None = None  # why the newest version is not the one that is served
        self._cache = cache
        self._client = connect(create=False)
        self._failed = (0, 0, 0.0)  # version, times it failed, when to try it again
        self.current = self._first()

    def _first(self) -> Served:
        try:
            name, version = self._named()
        except TransientTrackingError:
            raise
        except TrackingError as error:
            reason = str(error).replace("\n", " ")
            raise TrackingError(
                f"There is nothing to serve: {reason}\n"
                "Train a model by graft run, or make a version champion by graft promote."
            ) from error
        return load(name, version, self._cache)

    def _named(self) -> tuple[str, int]:
        with tracking_errors(f"looking for {self.uri}"):
            found = find_version(self._client, self.uri)
        return found.name, int(found.version)

    def look(self, seconds: float = 0.0) -> None:
        """Look at the registry once, and serve from now on what ``uri`` names there.

        What cannot be taken is not: the version at hand goes on, ``problem`` and the log say why,
        and the same version is tried again after ``seconds``, then twice as long each time.
        """
        try:
            name, version = self._named()
            self._take(name, version, seconds)
        except Exception as error:  # this thread must outlive whatever a version is like
            reason = str(error) if isinstance(error, GraftError) else f"{type(error).__name__}"
            self._say(f"version {self.current.version} goes on: {reason}".replace("\n", " "))

    def _take(self, name: str, version: int, seconds: float) -> None:
        if version == self.current.version:
            self.problem = None
            return
        failed, times, again = self._failed
        if version == failed and time.monotonic() < again:
            return
        times = times + 1 if version == failed else 1
        wait = min(seconds * 2 ** (times - 1), LONGEST_WAIT)
        self._failed = (version, times, time.monotonic() + wait)
        self.current = load(name, version, self._cache)
        self.problem, self._failed = None, (0, 0, 0.0)
        log.info("version %d of %s is served now", version, name)

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            log.warning(problem)
        self.problem = problem

    def watch(self, seconds: float) -> None:
        """Begin to look every ``seconds``, in a thread that ends with the process."""

        def keep_looking() -> None:
            while True:
                time.sleep(seconds)
                self.look(seconds)

        threading.Thread(target=keep_looking, name="champion", daemon=True).start()
