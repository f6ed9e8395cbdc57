"""The aliases of a registered model, and the only hands that move them.

``champion`` is served; ``previous`` was champion before it; ``challenger`` is the newest version
that was decided on and is not champion: refused, or waiting for a person. Each change of the
champion is made under the lock of ``tasks.register.locks``, from the state that was expected, and
is whole or undone; what was done is recorded in the history right after.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from tasks.errors import GraftError, TransientTrackingError
from tasks.register.client import tracking_errors
from tasks.register.history import Kind, Moves, line_of_champions, read_events, record
from tasks.register.locks import Confirm, locked
from tasks.register.registry import CHAMPION, version_numbers
from tasks.values import PromotionDecision

CHALLENGER = "challenger"
PREVIOUS = "previous"
About = tuple[Kind, int, str, PromotionDecision | None]  # what a move is recorded as

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Aliases:
    """Which version bears which alias."""

    champion: int | None = None
    previous: int | None = None
    challenger: int | None = None

    def without(self, version: int) -> Aliases:
        """Return these, with ``version`` no challenger any more."""
        return replace(self, challenger=None) if self.challenger == version else self


def read_aliases(model: RegisteredModel) -> Aliases:
    """Return the aliases of a registered model as it was read."""
    found = {alias: int(version) for alias, version in model.aliases.items()}
    return Aliases(found.get(CHAMPION), found.get(PREVIOUS), found.get(CHALLENGER))


def move_champion(
    client: MlflowClient,
    version: ModelVersion,
    expected: int | None,
    cause: str,
    kind: Kind = "promoted",
    decision: PromotionDecision | None = None,
) -> None:
    """Make ``version`` champion if the champion is still ``expected`` (None: there is none).

    The old champion becomes ``previous``, and the version is no ``challenger`` any more. Recorded
    as ``kind`` with ``cause`` and the figures of ``decision``. On any fault the aliases are put
    back. Raises ``TransientTrackingError`` that says who is champion now when it is not the one
    expected, or when the lock is not to be had; ``TrackingError`` when MLflow refuses.
    """

    def previous(before: Aliases) -> int | None:
        return before.previous if before.champion is None else before.champion

    _crown(client, version, expected, previous, (kind, int(version.version), cause, decision))


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
    about: About = ("rolled back", int(version.version), cause, None)
    _crown(client, version, expected, lambda _: previous, about)


def _crown(
    client: MlflowClient,
    version: ModelVersion,
    expected: int | None,
    previous: Callable[[Aliases], int | None],
    about: About,
) -> None:
    """Make ``version`` champion under the lock, if the champion is still ``expected``."""
    name, number = version.name, int(version.version)
    check = partial(_check, client, name, number, expected)
    with tracking_errors("moving the alias champion"):
        check(early=True)
        with locked(client, name, partial(check, early=True)) as confirm:
            before = check()
            after = replace(before.without(number), champion=number, previous=previous(before))
            _move(client, name, (before, after), about, confirm)


def name_challenger(
    client: MlflowClient, version: ModelVersion, kind: Kind, decision: PromotionDecision
) -> None:
    """Make a version that was decided on and not promoted ``challenger``, unless a newer one is.

    Recorded as ``kind``. No lock is held: of two at once the newer one may lose the alias to the
    older, which ``champion`` is not touched by. Raises MLflow's exceptions.
    """
    name, number = version.name, int(version.version)
    before = read_aliases(client.get_registered_model(name))
    newer = before.challenger is not None and before.challenger > number
    after = before if newer else replace(before, challenger=number)
    _move(client, name, (before, after), (kind, number, decision.reason, decision), lambda: None)


def take_aliases_back(client: MlflowClient, version: ModelVersion, before: int | None) -> None:
    """Undo what a version that is to be deleted did to the aliases; ``before`` was champion.

    Champion becomes ``before`` again, ``previous`` and ``challenger`` what they were then, as far
    as those versions are still there. Raises MLflow's exceptions, and what the lock raises.
    """
    name, number = version.name, int(version.version)
    model = client.get_registered_model(name)
    recorded = any(event.version == number for event in read_events(model))
    if not recorded and number not in asdict(read_aliases(model)).values():
        return
    with locked(client, name) as confirm:
        model = client.get_registered_model(name)
        aliases = read_aliases(model)
        there = version_numbers(client, name) - {number}
        after = aliases
        if aliases.champion == number:
            line = [one for one in line_of_champions(read_events(model)) if one != number]
            champion = before if before in there else None
            after = replace(after, champion=champion, previous=below(line, champion, there))
        if aliases.challenger == number:
            after = replace(after, challenger=_former_challenger(model, number, there))
        about: About = ("taken back", number, "The run that made it failed.", None)
        _move(client, name, (aliases, after), about, confirm)


def _check(
    client: MlflowClient, name: str, number: int, expected: int | None, early: bool = False
) -> Aliases:
    """Return the aliases; raises ``TransientTrackingError`` when the champion is another.

    Before the lock is held (``early``) only a move that is recorded counts: another may be undone.
    """
    model = client.get_registered_model(name)
    aliases = read_aliases(model)
    mover = _mover(model, aliases.champion)
    if aliases.champion == expected or (early and not mover):
        return aliases
    there = "no version" if aliases.champion is None else f"version {aliases.champion}"
    after = "none" if expected is None else f"version {expected}"
    raise TransientTrackingError(
        f"Champion of {name} is {there} by now{mover}, while version {number} was to follow "
        f"{after}.\nSee graft history {name}, and run again."
    )


def _mover(model: RegisteredModel, champion: int | None) -> str:
    """Return in words who made ``champion`` what it is, if that is recorded."""
    moves = [event for event in read_events(model) if event.when and CHAMPION in event.moves]
    if not moves or moves[-1].moves[CHAMPION][1] != champion:
        return ""
    last = moves[-1]
    return f" ({last.kind} by {last.who}, {last.when:%Y-%m-%d %H:%M:%S} UTC)"


def _move(
    client: MlflowClient,
    name: str,
    states: tuple[Aliases, Aliases],
    about: About,
    confirm: Confirm,
) -> None:
    """Go from one state to the other and record it, or stay."""
    before, after = states
    kind, number, cause, decision = about
    moves: Moves = {
        alias: (old, getattr(after, alias))
        for alias, old in asdict(before).items()
        if old != getattr(after, alias)
    }
    confirm()
    try:
        for alias, (_, new) in reversed(moves.items()):  # champion last
            _set(client, name, alias, new)
        record(client, name, kind, number, cause, moves, decision)
    except BaseException:
        _put_back(client, name, moves)
        raise


def _put_back(client: MlflowClient, name: str, moves: Moves) -> None:
    for alias, (old, _) in moves.items():
        try:
            with tracking_errors(f"putting the alias {alias} back"):
                _set(client, name, alias, old)
        except GraftError as fault:  # must not hide what went wrong first
            log.warning("the alias %s of %s may have moved: %s", alias, name, fault)


def _set(client: MlflowClient, name: str, alias: str, version: int | None) -> None:
    if version is None:
        client.delete_registered_model_alias(name, alias)
    else:
        client.set_registered_model_alias(name, alias, str(version))


def below(line: Sequence[int], champion: int | None, there: Container[int]) -> int | None:
    """Return the last version in ``line`` that was champion before ``champion`` and is there."""
    rest = list(line)
    while champion in rest and rest.pop() != champion:
        pass
    return next((one for one in reversed(rest) if one in there and one != champion), None)


def _former_challenger(model: RegisteredModel, number: int, there: Container[int]) -> int | None:
    """Return which version ``number`` took the alias challenger from."""
    for event in reversed(read_events(model)):
        former, new = event.moves.get(CHALLENGER, (None, None))
        if new == number:
            return former if former in there else None
    return None
