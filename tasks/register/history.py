"""What happened to a registered model: every decision and every move of its aliases.

Kept in the registry itself as tags of the registered model, ``graft.event.STAMP``, each a JSON
object that is written once and never changed: deleting a version takes none of them away. While its
aliases move an event is ``graft.moving.STAMP``; ``tasks.register.journal`` writes both.
"""

from __future__ import annotations

import logging
import math
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from mlflow.entities.model_registry import RegisteredModel
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.register.facts import user_name
from tasks.register.registry import CHAMPION
from tasks.values import PromotionDecision
from tasks.words import printable

EVENT = "graft.event."
MOVING = "graft.moving."
LONGEST_REASON = 1800  # characters, two each in JSON; a database may keep 5000 of a whole event
LONGEST_NAME = 100
FLOW_RUN = "PREFECT__FLOW_RUN_ID"  # set where Prefect starts a flow run in a process of its own

Kind = Literal[
    "promoted",  # by the gate
    "refused",
    "waiting",  # for a person
    "approved",  # by a person, after the gate
    "rejected",
    "promoted by hand",
    "rolled back",
    "taken back",  # a run that failed left nothing
    "removed",  # as old and not needed
    "moved outside graft",  # in MLflow's UI, or before there was a history; seen, not recorded
]
BACKWARDS = ("rolled back", "taken back")
Moves = dict[str, tuple[int | None, int | None]]  # by alias: version before and after

log = logging.getLogger(__name__)


class Event(BaseModel):
    """One decision or one move of aliases, with all that it changed."""

    model_config = ConfigDict(frozen=True)  # fields of a later graft are passed over

    kind: Kind
    version: int | None  # that it is about; None where an alias was taken away
    when: datetime | None  # UTC; None where nobody recorded it
    who: str = ""
    typed: bool = False  # who is what a person typed; else the user that the process ran as
    flow_run: str | None = None  # Prefect's
    run_id: str | None = None  # MLflow's
    why: str = ""
    numbers: dict[str, float] = {}
    moves: Moves = {}

    @property
    def told(self) -> str:
        """What was done, by whom and when, in words."""
        when = "" if self.when is None else f", {self.when:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.kind} by {self.who}{when}"


@dataclass(frozen=True)
class Note:
    """What is to be told of a decision or a move, beside the aliases it moves."""

    kind: Kind
    version: int
    why: str = ""
    decision: PromotionDecision | None = None
    who: str | None = None  # as a person typed it; None: the user that this process runs as


def numbers_of(decision: PromotionDecision) -> dict[str, float]:
    """Return every finite figure that the decision holds."""
    figures = decision.model_dump(exclude={"version"})
    return {
        name: value
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def read_events(model: RegisteredModel) -> list[Event]:
    """Return what happened to a registered model, oldest first.

    That is what was recorded, and a move that is whole but not recorded yet.
    """
    aliases = versions_by_alias(model)
    whole = {stamp: one for stamp, one in begun(model).items() if in_effect(one, aliases)}
    told = _found(model, EVENT) | whole
    return [told[stamp] for stamp in sorted(told)]


def recorded(model: RegisteredModel) -> list[Event]:
    """Return what was recorded of a registered model and will stand, oldest first."""
    return list(_found(model, EVENT).values())


def begun(model: RegisteredModel) -> dict[str, Event]:
    """Return by their stamps the moves that are going on, or that a dead process left."""
    found = _found(model, MOVING)
    return {stamp: event for stamp, event in found.items() if EVENT + stamp not in model.tags}


def in_effect(event: Event, aliases: Mapping[str, int]) -> bool:
    """Say whether each alias that an event moves is where it is to be."""
    return all(aliases.get(alias) == after for alias, (_, after) in event.moves.items())


def versions_by_alias(model: RegisteredModel) -> dict[str, int]:
    """Return where the aliases are at this moment, in the middle of a move or not."""
    return {alias: int(version) for alias, version in model.aliases.items()}


def settled_aliases(model: RegisteredModel) -> dict[str, int]:
    """Return where the aliases are, a move that is in its middle not counted."""
    aliases = versions_by_alias(model)
    for event in begun(model).values():
        if not in_effect(event, aliases):
            moved = [a for a, (_, after) in event.moves.items() if aliases.get(a) == after]
            former = {alias: event.moves[alias][0] for alias in moved}
            rest = {alias: one for alias, one in aliases.items() if alias not in moved}
            aliases = rest | {alias: one for alias, one in former.items() if one is not None}
    return aliases


def _found(model: RegisteredModel, prefix: str) -> dict[str, Event]:
    found = {}
    for key in sorted(key for key in model.tags if key.startswith(prefix)):
        try:
            found[key.removeprefix(prefix)] = Event.model_validate_json(model.tags[key])
        except ValidationError as error:
            log.warning("%s of %s is no event of graft: %s", key, model.name, error)
    return found


def compose(model: RegisteredModel, note: Note, moves: Moves) -> tuple[str, str]:
    """Return stamp and JSON of an event that happens now, after all that happened to ``model``.

    Nothing that a person can type makes it fail: what is no UTF-8 is escaped, what is too long cut.
    """
    when = datetime.now(UTC)
    times = [event.when for event in read_events(model) if event.when]
    if times and when <= times[-1]:  # another machine's clock is ahead
        when = times[-1] + timedelta(microseconds=1)
    event = Event(
        kind=note.kind,
        version=note.version,
        when=when,
        who=kept_name(user_name() if note.who is None else note.who),
        typed=note.who is not None,
        flow_run=os.environ.get(FLOW_RUN),
        run_id=None if note.decision is None else note.decision.run_id,
        why=_clean(note.why, LONGEST_REASON),
        numbers={} if note.decision is None else numbers_of(note.decision),
        moves=moves,
    )
    return f"{when:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}", event.model_dump_json()


def kept_name(who: str) -> str:
    """Return a name as an event keeps it."""
    return _clean(who, LONGEST_NAME)


def _clean(words: str, longest: int) -> str:
    """Return ``words`` as any database keeps them: escaped but for line ends, and cut."""
    text = "\n".join(printable(line) for line in words.strip().splitlines())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def line_of_champions(events: Iterable[Event]) -> list[int]:
    """Return the versions that were champion, oldest first and the last recorded one at the end.

    Going back cuts the line there, so that going back again goes further back.
    """
    line: list[int] = []
    for event in events:
        if CHAMPION not in event.moves:
            continue
        before, after = event.moves[CHAMPION]
        if before is not None and line[-1:] != [before]:
            line.append(before)  # moved outside graft
        if event.kind in BACKWARDS:
            line = _cut(line, after)
        elif after is not None:
            line.append(after)
    return line


def _cut(line: list[int], version: int | None) -> list[int]:
    """Return ``line`` up to where ``version`` was champion last; it ends with it in any case."""
    rest = line[:-1]
    while rest and version in rest and rest[-1] != version:
        rest.pop()
    if version is not None and rest[-1:] != [version]:
        rest.append(version)
    return rest


def with_outside_moves(events: Iterable[Event], present: Mapping[str, int]) -> list[Event]:
    """Return ``events`` with the moves between and after them that nobody recorded.

    An event says where each alias was that it moved, and ``present`` says where they are now.
    """
    told: list[Event] = []
    known: dict[str, int | None] = {}
    for event in events:
        seen = {alias: before for alias, (before, _) in event.moves.items()}
        told += [*_unrecorded(known, seen), event]
        known |= {alias: after for alias, (_, after) in event.moves.items()}
    now = {alias: present.get(alias) for alias in known}
    now |= {alias: present[alias] for alias in (CHAMPION,) if alias in present}
    return [*told, *_unrecorded(known, now)]


def _unrecorded(known: Mapping[str, int | None], seen: Mapping[str, int | None]) -> list[Event]:
    return [
        Event(
            kind="moved outside graft",
            version=version,
            when=None,
            moves={alias: (known.get(alias), version)},
        )
        for alias, version in seen.items()
        if known.get(alias) != version
    ]
