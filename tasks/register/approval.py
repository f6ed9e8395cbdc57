"""Promotions that wait for a person: the gate said yes, and somebody must agree."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from tasks.errors import TrackingError
from tasks.register.aliases import moves_between, read_aliases
from tasks.register.client import connect, tracking_errors
from tasks.register.history import Event, Kind, Note, kept_name, read_events
from tasks.register.journal import Turn, turn
from tasks.register.moves import pick
from tasks.register.verify import verify_version
from tasks.register.versions import decision_on, settle
from tasks.values import PromotionDecision

ANSWERS: tuple[Kind, ...] = ("approved", "rejected", "promoted by hand")


def standing(name: str, which: str) -> PromotionDecision:
    """Return the decision on a version, ``which`` being its number or an alias.

    Raises ``TrackingError`` when there is no such version or no decision on it stands.
    """
    client = connect(create=False)
    with tracking_errors(f"looking for the decision on {name}"):
        return _decision(pick(client, name, which))


def approve(name: str, which: str, reason: str = "", who: str | None = None) -> PromotionDecision:
    """Make a version that waits for approval champion; recorded with who, when and ``reason``.

    ``who`` is a name that a person typed; without one it is the user that this process runs as.
    Of several answers at once the first counts. Raises ``TrackingError``, with nothing changed,
    when the version does not wait, when its files are missing or not those that were registered,
    and when the champion is no longer the one that the gate compared it with.
    """
    client = connect(create=False)
    with tracking_errors(f"approving {name}"):
        version = pick(client, name, which)
        decision = _waiting(client, version)
        verify_version(client, version)
        note = Note("approved", decision.version, reason, decision, who)
        return _answer(client, version, note)


def reject(name: str, which: str, reason: str = "", who: str | None = None) -> PromotionDecision:
    """Let a version wait no longer: it stays challenger, and the champion stays.

    ``who`` as for ``approve``; of several answers at once the first counts. Raises
    ``TrackingError``, with nothing changed, when the version does not wait, or is champion.
    """
    client = connect(create=False)
    with tracking_errors(f"rejecting {name}"):
        version = pick(client, name, which)
        decision = _waiting(client, version)
        note = Note("rejected", decision.version, reason, decision, who)
        return _answer(client, version, note)


def answered(name: str, which: str, kind: Kind, who: str) -> PromotionDecision | None:
    """Return the decision on a version if it was settled by this very answer, under this name.

    So a caller whose answer landed, and whose reply was lost, learns it. Raises as ``standing``.
    """
    client = connect(create=False)
    with tracking_errors(f"looking for the answer on {name}"):
        decision = _decision(pick(client, name, which))
        last = answer_to(client.get_registered_model(name), decision.version)
    if decision.waiting or last is None:
        return None
    return decision if (last.kind, last.who) == (kind, kept_name(who)) else None


def _answer(client: MlflowClient, version: ModelVersion, note: Note) -> PromotionDecision:
    """Put an answer into effect under the lock, unless there is one by then."""

    def look() -> PromotionDecision:
        return _waiting(client, client.get_model_version(version.name, version.version))

    with turn(client, version.name, look) as mine:
        decision = look()
        earlier = answer_to(mine.model, decision.version)
        if earlier is not None:  # its process was killed before it said so on the version
            return _bring_to_end(client, version, mine.model, earlier, note)
        _carry_out(mine, decision, note)
        return settle(client, version, decision, promoted=note.kind == "approved")


def _bring_to_end(
    client: MlflowClient, version: ModelVersion, model: RegisteredModel, earlier: Event, note: Note
) -> PromotionDecision:
    """Say on the version what was answered before; raises where that is another answer."""
    settled = settle(client, version, _decision(version), promoted=earlier.kind != "rejected")
    champion = read_aliases(model).champion
    if settled.promoted != (note.kind == "approved") or (
        settled.promoted and champion != settled.version
    ):
        raise _does_not_wait(settled, earlier)
    return settled


def _carry_out(mine: Turn, decision: PromotionDecision, note: Note) -> None:
    before, number, expected = read_aliases(mine.model), decision.version, decision.champion_version
    if before.champion == number and note.kind == "rejected":
        raise TrackingError(
            f"Version {number} of {mine.name} is champion: the alias was moved outside graft.\n"
            f"Take that back first: graft rollback {mine.name}."
        )
    if note.kind == "rejected":
        after = before
    elif before.champion == number:  # only to be said
        after = before.without(number)
    elif before.champion == expected:
        after = before.crowned(number)
    else:
        raise TrackingError(
            f"The gate compared version {number} of {mine.name} with {_words(expected)}, and "
            f"champion is {_words(before.champion)} by now.\n"
            "Train again to compare it with that one; graft promote goes by no comparison."
        )
    mine.move(moves_between(before, after), note)


def answer_to(model: RegisteredModel, number: int) -> Event | None:
    """Return what a person answered last on a version, if anybody did."""
    answers = [
        event for event in read_events(model) if event.version == number and event.kind in ANSWERS
    ]
    return answers[-1] if answers else None


def _waiting(client: MlflowClient, version: ModelVersion) -> PromotionDecision:
    decision = _decision(version)
    if not decision.waiting:
        model = client.get_registered_model(version.name)
        raise _does_not_wait(decision, answer_to(model, decision.version))
    return decision


def _does_not_wait(decision: PromotionDecision, answer: Event | None) -> TrackingError:
    state = "was promoted" if decision.promoted else "was not promoted"
    by = "" if answer is None else f" ({answer.told})"
    name = decision.model
    return TrackingError(
        f"Version {decision.version} of {name} does not wait for approval: it {state}{by}.\n"
        f"See graft history {name}; graft promote makes any version champion."
    )


def _decision(version: ModelVersion) -> PromotionDecision:
    decision = decision_on(version)
    if decision is None:
        raise TrackingError(
            f"No decision stands on version {version.version} of {version.name}.\n"
            "Wait until its run is done."
        )
    return decision


def _words(version: int | None) -> str:
    return "none" if version is None else f"version {version}"
