"""Aliases moved by a person, by ``graft promote`` and ``graft rollback``; and their story."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from tasks.errors import TrackingError
from tasks.register.aliases import (
    Aliases,
    below,
    move_champion,
    read_aliases,
    return_champion,
)
from tasks.register.client import connect, tracking_errors
from tasks.register.history import (
    Event,
    Kind,
    line_of_champions,
    read_events,
    settled_aliases,
    with_outside_moves,
)
from tasks.register.registry import find_model, find_version, version_numbers
from tasks.register.verify import verify_version
from tasks.register.versions import decision_on, settle
from tasks.values import PromotionDecision

VERDICTS: tuple[Kind, ...] = ("promoted", "refused", "waiting", "approved", "rejected")


@dataclass(frozen=True)
class Moved:
    """What a person's move came to."""

    name: str
    version: int  # champion now
    before: int | None  # champion until now
    aliases: Aliases
    decision: PromotionDecision | None  # the gate's on the version, as it stands now
    verdict: Kind | None  # what had become of that decision before


@dataclass(frozen=True)
class Story:
    """A registered model's aliases and all that led to them, oldest first."""

    name: str
    aliases: Aliases
    events: tuple[Event, ...]


def promote(name: str, which: str, reason: str = "") -> Moved:
    """Make a version champion by hand, whatever the gate decided; ``which`` as in ``pick``.

    Raises ``TrackingError``, with nothing changed, when there is no such version, when it is
    champion already or no decision on it stands, when its files are missing or not those that were
    registered, and when another moved the champion meanwhile. Where the version is champion by
    then, and only that it waits no longer could not be written, the error says that.
    """
    client = connect(create=False)
    with tracking_errors(f"promoting {name}"):
        version = pick(client, name, which)
        number = int(version.version)
        model = find_model(client, name)
        before = read_aliases(model).champion
        if before == number:
            raise TrackingError(
                f"Version {number} of {name} is champion already.\nNothing was changed."
            )
        if decision_on(version) is None:
            raise TrackingError(
                f"No decision stands on version {number} of {name}: it is half-made, or not "
                "graft's.\nWait until its run is done; what a dead run left, its next try removes."
            )
        verify_version(client, version)
        move_champion(
            client,
            version,
            before,
            reason,
            kind="promoted by hand",
            then=lambda: _end_waiting(client, version),
        )
        return _moved(client, version, model)


def _end_waiting(client: MlflowClient, version: ModelVersion) -> None:
    """Let a version wait no longer for a person, who has spoken."""
    name, number = version.name, version.version
    try:
        with tracking_errors("writing that the version waits no longer"):
            decision = decision_on(client.get_model_version(name, number))
            if decision is not None and decision.waiting:
                settle(client, version, decision, promoted=True)
    except TrackingError as error:
        why = str(error).splitlines()[0]
        raise TrackingError(
            f"Version {number} of {name} is champion now, but still said to wait: {why}\n"
            f"Set that right with graft approve {name} {number}."
        ) from error


def roll_back(name: str, reason: str = "") -> Moved:
    """Make the version champion that was it before; again, the one before that.

    That is ``previous``, unless the champion was moved outside graft: then it is the last that
    graft made champion. Versions that are gone are passed over. Raises ``TrackingError``, with
    nothing changed, when there is nothing to go back to and as ``promote`` does.
    """
    client = connect(create=False)
    with tracking_errors(f"rolling {name} back"):
        model = find_model(client, name)
        line, there = line_of_champions(read_events(model)), version_numbers(client, name)
        aliases = read_aliases(model)
        target = _target(aliases, line, there)
        if target is None:
            raise TrackingError(
                f"There is no version of {name} to go back to.\n"
                f"See graft history {name}; graft promote {name} VERSION makes any champion."
            )
        version = client.get_model_version(name, str(target))
        verify_version(client, version)
        led_here = line[:-1] if line[-1:] == [aliases.champion] else line
        previous = below(led_here, target, there)
        return_champion(client, version, aliases.champion, previous, reason)
        return _moved(client, version, model)


def _target(aliases: Aliases, line: list[int], there: set[int]) -> int | None:
    """Return the version to go back to, if there is one."""
    if line[-1:] != [aliases.champion]:  # moved outside graft, or gone
        return below([*line, -1], -1, there - {aliases.champion})
    if aliases.previous not in (None, aliases.champion):
        return aliases.previous
    return below(line, aliases.champion, there)


def _moved(client: MlflowClient, version: ModelVersion, model: RegisteredModel) -> Moved:
    """Return what a move came to; ``model`` is as it was before."""
    name, number = version.name, int(version.version)
    before, aliases = read_aliases(model).champion, read_aliases(find_model(client, name))
    decision = decision_on(client.get_model_version(name, version.version))
    return Moved(name, number, before, aliases, decision, _verdict(model, number, decision))


def _verdict(
    model: RegisteredModel, number: int, decision: PromotionDecision | None
) -> Kind | None:
    """Return what became of the decision on a version; its tags know no rejection."""
    for event in reversed(read_events(model)):
        if event.version == number and event.kind in VERDICTS:
            return event.kind
    if decision is None:
        return None
    return "promoted" if decision.promoted else "refused"  # it has no history


def story(name: str) -> Story:
    """Return what happened to a registered model; raises ``TrackingError`` when there is none."""
    client = connect(create=False)
    with tracking_errors(f"reading the history of {name}"):
        model: RegisteredModel = find_model(client, name)
        events = with_outside_moves(read_events(model), settled_aliases(model))
        return Story(name, read_aliases(model), tuple(events))


def pick(client: MlflowClient, name: str, which: str) -> ModelVersion:
    """Return the version that ``which``, a number or an alias, names.

    Raises ``TrackingError`` that names what there is.
    """
    sign = "/" if which.isdecimal() else "@"
    return find_version(client, f"models:/{name}{sign}{which}")
