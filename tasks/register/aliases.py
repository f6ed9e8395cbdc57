"""The aliases of a registered model, and the only hands that move them.

``champion`` is served; ``previous`` was champion before it; ``challenger`` is the newest version
that was decided on and is not champion: refused, or waiting for a person. Each change is made under
the lock of ``tasks.register.locks``, from the state that was expected, and is whole and recorded or
undone, as ``tasks.register.journal`` sees to.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from tasks.errors import TransientTrackingError
from tasks.register.client import tracking_errors
from tasks.register.history import (
    Event,
    Kind,
    Moves,
    Note,
    line_of_champions,
    read_events,
    recorded,
    settled_aliases,
)
from tasks.register.journal import turn
from tasks.register.registry import CHAMPION, version_numbers
from tasks.values import PromotionDecision

CHALLENGER = "challenger"
PREVIOUS = "previous"


@dataclass(frozen=True)
class Aliases:
    """Which version bears which alias."""

    champion: int | None = None
    previous: int | None = None
    challenger: int | None = None

    def crowned(self, version: int) -> Aliases:
        """Return these with ``version`` champion, after the one that is it now."""
        previous = self.previous if self.champion is None else self.champion
        return replace(self.without(version), champion=version, previous=previous)

    def without(self, version: int) -> Aliases:
        """Return these, with ``version`` no challenger any more."""
        return replace(self, challenger=None) if self.challenger == version else self


def read_aliases(model: RegisteredModel) -> Aliases:
    """Return the aliases of a registered model as it was read; a half-made move is none."""
    found = settled_aliases(model)
    return Aliases(found.get(CHAMPION), found.get(PREVIOUS), found.get(CHALLENGER))


def moves_between(before: Aliases, after: Aliases) -> Moves:
    """Return what has to move, ``champion`` first."""
    return {
        alias: (old, getattr(after, alias))
        for alias, old in asdict(before).items()
        if old != getattr(after, alias)
    }


def move_champion(
    client: MlflowClient,
    version: ModelVersion,
    expected: int | None,
    cause: str,
    kind: Kind = "promoted",
    decision: PromotionDecision | None = None,
    then: Callable[[], object] = lambda: None,
) -> None:
    """Make ``version`` champion if the champion is still ``expected`` (None: there is none).

    The old champion becomes ``previous``, and the version is no ``challenger`` any more. Recorded
    as ``kind`` with ``cause`` and the figures of ``decision``; ``then`` is called before anybody
    else may move. On any fault of the move the aliases are put back. Raises
    ``TransientTrackingError`` that says who is champion now when it is not the one expected, or
    when the lock is not to be had; ``TrackingError`` when MLflow refuses.
    """
    number = int(version.version)
    note = Note(kind, number, cause, decision)
    _move(client, version, expected, lambda before: before.crowned(number), note, then)


def return_champion(
    client: MlflowClient,
    version: ModelVersion,
    expected: int | None,
    previous: int | None,
    cause: str,
) -> None:
    """Make ``version`` champion again and ``previous`` what is gone back to after it.

    Raises as ``move_champion`` does.
    """
    number = int(version.version)

    def after(before: Aliases) -> Aliases:
        return replace(before.without(number), champion=number, previous=previous)

    _move(client, version, expected, after, Note("rolled back", number, cause))


def name_challenger(
    client: MlflowClient, version: ModelVersion, kind: Kind, decision: PromotionDecision
) -> None:
    """Make a version that was decided on and not promoted ``challenger``, unless a newer one is.

    Recorded as ``kind``. Raises as ``move_champion`` does, also when the champion is no longer the
    one that the decision was made against.
    """
    number = int(version.version)

    def after(before: Aliases) -> Aliases:
        newer = before.challenger is not None and before.challenger > number
        return before if newer else replace(before, challenger=number)

    note = Note(kind, number, decision.reason, decision)
    _move(client, version, decision.champion_version, after, note)


def _move(
    client: MlflowClient,
    version: ModelVersion,
    expected: int | None,
    become: Callable[[Aliases], Aliases],
    note: Note,
    then: Callable[[], object] = lambda: None,
) -> None:
    """Move under the lock, if the champion is still ``expected``."""

    def check_early() -> None:
        _check(client.get_registered_model(version.name), note.version, expected, early=True)

    with tracking_errors("moving the aliases"):
        check_early()
        with turn(client, version.name, check_early) as mine:
            before = _check(mine.model, note.version, expected)
            mine.move(moves_between(before, become(before)), note)
            then()


def take_aliases_back(client: MlflowClient, version: ModelVersion, before: int | None) -> None:
    """Undo what a version that is to be deleted did to the aliases; ``before`` was champion.

    Champion becomes ``before`` again, ``previous`` and ``challenger`` what they were then, as far
    as those versions are still there and nobody moved them since. Raises MLflow's exceptions, and
    what the lock raises.
    """
    name, number = version.name, int(version.version)
    model = client.get_registered_model(name)
    told = any(event.version == number for event in read_events(model))
    if not told and str(number) not in map(str, model.aliases.values()):
        return
    with turn(client, name) as mine:
        there = version_numbers(client, name) - {number}
        aliases = read_aliases(mine.model)
        after = _as_before(read_events(mine.model), aliases, number, before, there)
        note = Note("taken back", number, "The run that made it failed.")
        mine.move(moves_between(aliases, after), note)


def _as_before(
    events: Sequence[Event],
    now: Aliases,
    number: int,
    before: int | None,
    there: Container[int],
) -> Aliases:
    """Return the aliases as they would be, had there never been version ``number``."""
    line = [one for one in line_of_champions(events) if one != number]
    champion, previous, challenger = now.champion, now.previous, now.challenger
    if champion == number:
        champion = before if before in there else None
        came = _last_move(events, CHAMPION, number)
        old, new = came.get(PREVIOUS, (previous, previous))
        if came and previous == new:
            previous = old
    if previous == number or (previous is not None and previous not in there):
        previous = below(line, champion, there)
    if challenger == number:
        former, _ = _last_move(events, CHALLENGER, number).get(CHALLENGER, (None, None))
        challenger = former if former in there else None
    return Aliases(champion, previous, challenger)


def _last_move(events: Sequence[Event], alias: str, number: int) -> Moves:
    """Return all that moved when ``alias`` came to version ``number``, the last time."""
    to_it = [one.moves for one in events if one.moves.get(alias, (None, None))[1] == number]
    return to_it[-1] if to_it else {}


def _check(
    model: RegisteredModel, number: int, expected: int | None, early: bool = False
) -> Aliases:
    """Return the aliases; raises ``TransientTrackingError`` when the champion is another.

    Before the lock is held (``early``) only a move that is recorded counts: another may be undone.
    """
    aliases = read_aliases(model)
    mover = _mover(model, aliases.champion)
    if aliases.champion == expected or (early and not mover):
        return aliases
    there = "no version" if aliases.champion is None else f"version {aliases.champion}"
    after = "none" if expected is None else f"version {expected}"
    raise TransientTrackingError(
        f"Champion of {model.name} is {there} by now{mover}, while version {number} was to follow "
        f"{after}.\nSee graft history {model.name}, and run again."
    )


def _mover(model: RegisteredModel, champion: int | None) -> str:
    """Return in words who made ``champion`` what it is, if that is recorded."""
    moves = [event for event in recorded(model) if event.when and CHAMPION in event.moves]
    if not moves or moves[-1].moves[CHAMPION][1] != champion:
        return ""
    last = moves[-1]
    return f" ({last.told})"


def below(line: Sequence[int], champion: int | None, there: Container[int]) -> int | None:
    """Return the last version in ``line`` that was champion before ``champion`` and is there."""
    rest = list(line)
    while champion in rest and rest.pop() != champion:
        pass
    return next((one for one in reversed(rest) if one in there and one != champion), None)
