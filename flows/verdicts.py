"""A person's word on a champion, put into effect and told, whoever typed it and where."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flows.notify import champion_moved, tell_promotion

if TYPE_CHECKING:
    from tasks.register.moves import Moved
    from tasks.values import PromotionDecision

log = logging.getLogger(__name__)


def promote(name: str, version: str, reason: str) -> Moved:
    """Make a version champion; raises as ``tasks.register.moves.promote``."""
    from tasks.register import moves

    moved = moves.promote(name, version, reason)
    if moved.verdict == "waiting" and moved.decision is not None:
        tell_prefect(moved.decision, reason)
    champion_moved(moved.name, moved.version, moved.before, reason)
    return moved


def roll_back(name: str, reason: str) -> Moved:
    """Make the champion before this one champion; raises as ``tasks.register.moves.roll_back``."""
    from tasks.register import moves

    moved = moves.roll_back(name, reason)
    champion_moved(moved.name, moved.version, moved.before, reason)
    return moved


def settle(name: str, version: str, reason: str, approve: bool) -> tuple[PromotionDecision, int]:
    """Approve or reject a waiting version; return the decision and the flow runs resumed.

    Raises as ``tasks.register.approval`` does.
    """
    from tasks.register import approval

    put = approval.approve if approve else approval.reject
    decision = put(name, version, reason)
    tell_promotion(decision)
    return decision, tell_prefect(decision, reason)


def tell_prefect(decision: PromotionDecision, reason: str) -> int:
    """Resume what waits at the Prefect server that the user named, if one is named."""
    from flows.server import server_is_named

    if not server_is_named():
        return 0
    from flows import approval as flow

    try:
        return flow.answer(decision, reason)
    except Exception as error:  # the verdict is in effect, and the flow run finds it so
        log.warning("the flow run that asked is not resumed: %s", error)
        return 0
