"""What happened to a registered model: every decision and every move of its aliases.

Kept in the registry itself as tags of the registered model, ``graft.event.TIME-RANDOM``, each a
JSON object that is written once and never changed: deleting a version takes none of them away.
"""

from __future__ import annotations

import logging
import math
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.register.facts import user_name
from tasks.register.registry import CHAMPION
from tasks.values import PromotionDecision

EVENT = "graft.event."
LONGEST_REASON = 2000  # characters; a database may keep 5000 of a whole event
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
    flow_run: str | None = None  # Prefect's
    run_id: str | None = None  # MLflow's
    why: str = ""
    numbers: dict[str, float] = {}
    moves: Moves = {}


def numbers_of(decision: PromotionDecision) -> dict[str, float]:
    """Return every finite figure that the decision holds."""
    figures = decision.model_dump(exclude={"version"})
    return {
        name: value
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def read_events(model: RegisteredModel) -> list[Event]:
    """Return what was recorded of a registered model, oldest first."""
    found = []
    for key in sorted(key for key in model.tags if key.startswith(EVENT)):
        try:
            found.append(Event.model_validate_json(model.tags[key]))
        except ValidationError as error:
            log.warning("%s of %s is no event of graft: %s", key, model.name, error)
    return found


def record(
    client: MlflowClient,
    name: str,
    kind: Kind,
    version: int,
    why: str,
    moves: Moves,
    decision: PromotionDecision | None = None,
) -> None:
    """Append an event, by this user and now, after all that there are; raises MLflow's errors."""
    when = datetime.now(UTC)
    times = [event.when for event in read_events(client.get_registered_model(name)) if event.when]
    if times and when <= times[-1]:  # another machine's clock is ahead
        when = times[-1] + timedelta(microseconds=1)
    event = Event(
        kind=kind,
        version=version,
        when=when,
        who=user_name(),
        flow_run=os.environ.get(FLOW_RUN),
        run_id=None if decision is None else decision.run_id,
        why=why if len(why) <= LONGEST_REASON else why[: LONGEST_REASON - 1] + "…",
        numbers={} if decision is None else numbers_of(decision),
        moves=moves,
    )
    key = f"{EVENT}{when:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}"
    client.set_registered_model_tag(name, key, event.model_dump_json())


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


def with_outside_moves(events: Iterable[Event], present: Mapping[str, str]) -> list[Event]:
    """Return ``events`` with the moves between and after them that nobody recorded.

    An event says where each alias was that it moved, and ``present`` says where they are now.
    """
    told: list[Event] = []
    known: dict[str, int | None] = {}
    for event in events:
        seen = {alias: before for alias, (before, _) in event.moves.items()}
        told += [*_unrecorded(known, seen), event]
        known |= {alias: after for alias, (_, after) in event.moves.items()}
    now = {alias: int(present[alias]) if alias in present else None for alias in known}
    now |= {alias: int(present[alias]) for alias in (CHAMPION,) if alias in present}
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
