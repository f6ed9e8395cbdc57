"""Promotions that wait for a person: the gate said yes, and somebody must agree."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.errors import TrackingError, TransientTrackingError
from tasks.register.aliases import move_champion, read_aliases
from tasks.register.client import connect, tracking_errors
from tasks.register.history import record
from tasks.register.moves import pick
from tasks.register.registry import find_model
from tasks.register.verify import verify_version
from tasks.register.versions import decision_on, settle
from tasks.values import PromotionDecision


def standing(name: str, which: str) -> PromotionDecision:
    """Return the decision on a version, ``which`` being its number or an alias.

    Raises ``TrackingError`` when there is no such version or no decision on it stands.
    """
    client = connect(create=False)
    with tracking_errors(f"looking for the decision on {name}"):
        return _decision(pick(client, name, which))


def approve(name: str, which: str, reason: str = "") -> PromotionDecision:
    """Make a version that waits for approval champion; recorded with who, when and ``reason``.

    Raises ``TrackingError``, with nothing changed, when the version does not wait, when its files
    are missing or not those that were registered, and when the champion is no longer the one that
    the gate compared it with.
    """
    client = connect(create=False)
    with tracking_errors(f"approving {name}"):
        version = pick(client, name, which)
        decision = _waiting(version)
        verify_version(client, version)
        # a try that was cut off after the alias moved is brought to its end
        if read_aliases(find_model(client, name)).champion != decision.version:
            _crown(client, version, decision, reason)
        return settle(client, version, decision, promoted=True)


def reject(name: str, which: str, reason: str = "") -> PromotionDecision:
    """Let a version wait no longer: it stays challenger, and the champion stays.

    Raises ``TrackingError``, with nothing changed, when the version does not wait.
    """
    client = connect(create=False)
    with tracking_errors(f"rejecting {name}"):
        version = pick(client, name, which)
        decision = _waiting(version)
        record(client, name, "rejected", decision.version, reason, {}, decision)
        return settle(client, version, decision, promoted=False)


def _crown(
    client: MlflowClient, version: ModelVersion, decision: PromotionDecision, reason: str
) -> None:
    expected = decision.champion_version
    try:
        move_champion(client, version, expected, reason, kind="approved", decision=decision)
    except TransientTrackingError as error:
        champion = read_aliases(find_model(client, version.name)).champion
        if champion == expected:  # the lock, not the champion
            raise
        raise TrackingError(
            f"The gate compared version {decision.version} of {version.name} with "
            f"{_words(expected)}, and champion is {_words(champion)} by now.\n"
            "Train again to compare it with that one; graft promote goes by no comparison."
        ) from error


def _waiting(version: ModelVersion) -> PromotionDecision:
    decision = _decision(version)
    if not decision.waiting:
        state = "was promoted" if decision.promoted else "was not promoted"
        raise TrackingError(
            f"Version {version.version} of {version.name} does not wait for approval: it {state}.\n"
            f"See graft history {version.name}; graft promote makes any version champion."
        )
    return decision


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
