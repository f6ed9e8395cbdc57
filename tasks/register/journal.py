"""Moves of aliases that are whole and recorded, or undone, however their process ends.

A move is written down before anything moves, as the tag ``graft.moving.STAMP`` of the registered
model; then the aliases move, ``champion`` last; then the same words become the tag
``graft.event.STAMP``. What a killed process leaves is brought to its end by whoever takes the lock
next: where all aliases have moved, the event is recorded as it would have been; else they go back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from tasks.errors import GraftError
from tasks.register.client import tracking_errors
from tasks.register.history import (
    EVENT,
    MOVING,
    Moves,
    Note,
    begun,
    compose,
    in_effect,
    versions_by_alias,
)
from tasks.register.locks import Confirm, locked
from tasks.register.registry import version_numbers

log = logging.getLogger(__name__)


@contextmanager
def turn(
    client: MlflowClient, name: str, worth_waiting: Callable[[], object] = lambda: None
) -> Iterator[Turn]:
    """Hold the lock of the registered model ``name``; what a dead holder left is tidied first.

    Raises as ``tasks.register.locks.locked`` does.
    """
    with locked(client, name, worth_waiting) as confirm:
        model = client.get_registered_model(name)
        if any(key.startswith(MOVING) for key in model.tags):
            Turn(client, model, confirm).tidy()
            model = client.get_registered_model(name)
        yield Turn(client, model, confirm)


@dataclass(frozen=True)
class Turn:
    """The right to move the aliases of a registered model, once."""

    client: MlflowClient
    model: RegisteredModel  # as it was when the turn began: nobody else moves
    confirm: Confirm

    @property
    def name(self) -> str:
        """The registered model's name."""
        return str(self.model.name)

    def move(self, moves: Moves, note: Note) -> None:
        """Move aliases and record it, or leave them where they are; ``moves`` may be none.

        Raises MLflow's exceptions, and ``TransientTrackingError`` when the lock is lost.
        """
        stamp, text = compose(self.model, note, moves)
        if not moves:  # one write is whole or none
            self.confirm()
            self.client.set_registered_model_tag(self.name, EVENT + stamp, text)
            return
        self._begin(stamp, text)
        try:
            for alias, (_, after) in reversed(moves.items()):  # champion last
                self._set(alias, after)
            self.client.set_registered_model_tag(self.name, EVENT + stamp, text)
        except BaseException:
            self._undo(stamp, moves)
            raise
        self._forget(stamp)

    def tidy(self) -> None:
        """Bring to its end what a process left that was killed while it moved aliases."""
        for stamp, event in begun(self.model).items():
            self.confirm()
            if in_effect(event, versions_by_alias(self.model)):
                text = self.model.tags[MOVING + stamp]
                self.client.set_registered_model_tag(self.name, EVENT + stamp, text)
            else:
                self._put_back(event.moves)
            log.info("a move of the aliases of %s had been cut off: %s", self.name, event.kind)
        for key in [key for key in self.model.tags if key.startswith(MOVING)]:
            self.client.delete_registered_model_tag(self.name, key)

    def _begin(self, stamp: str, text: str) -> None:
        """Write down what is to move; whoever lost the lock meanwhile moves nothing."""
        try:
            self.client.set_registered_model_tag(self.name, MOVING + stamp, text)
            self.confirm()
        except BaseException:
            self._forget(stamp)
            raise

    def _undo(self, stamp: str, moves: Moves) -> None:
        try:
            with tracking_errors(f"putting the aliases of {self.name} back"):
                # an event whose acknowledgement was lost would tell what did not happen
                self.client.delete_registered_model_tag(self.name, EVENT + stamp)
                self._put_back(moves)
                self.client.delete_registered_model_tag(self.name, MOVING + stamp)
        except GraftError as fault:  # must not hide what went wrong first
            log.warning("the aliases of %s may have moved: %s", self.name, fault)

    def _put_back(self, moves: Mapping[str, tuple[int | None, int | None]]) -> None:
        """Put back those aliases that have moved; to no version where the former one is gone."""
        now = versions_by_alias(self.client.get_registered_model(self.name))
        there = version_numbers(self.client, self.name)
        for alias, (before, after) in moves.items():  # champion first
            if now.get(alias) == after:
                self._set(alias, before if before in there else None)

    def _forget(self, stamp: str) -> None:
        """Take away that a move is going on; where that fails, the next turn does it."""
        try:
            with tracking_errors("ending a move"):
                self.client.delete_registered_model_tag(self.name, MOVING + stamp)
        except GraftError as fault:
            log.info("%s%s of %s stays until the next move: %s", MOVING, stamp, self.name, fault)

    def _set(self, alias: str, version: int | None) -> None:
        if version is None:
            self.client.delete_registered_model_alias(self.name, alias)
        else:
            self.client.set_registered_model_alias(self.name, alias, str(version))
