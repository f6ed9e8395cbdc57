"""``graft approve``: a person's yes or no to a version that the gate would promote."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from flows.answer import Answer
from flows.arguments import Json
from flows.notify import tell_promotion
from flows.printing import answer
from flows.registry_cli import Name, Reason, Version

if TYPE_CHECKING:
    from tasks.values import PromotionDecision

Reject = Annotated[bool, typer.Option("--reject", help="Say no: the champion stays.")]

log = logging.getLogger(__name__)


def approve(
    name: Name,
    version: Version,
    reason: Reason = "",
    reject: Reject = False,
    as_json: Json = False,
) -> None:
    """Approve a promotion that waits for a person, or reject it."""
    answer(as_json, lambda: _approve(name, version, reason, reject))


def _approve(name: str, version: str, reason: str, reject: bool) -> Answer:
    from tasks.register import approval

    settle = approval.reject if reject else approval.approve
    decision = settle(name, version, reason)
    tell_promotion(decision)
    told = tell_prefect(decision, reason)
    said = "rejected" if reject else "champion"
    facts = [(said, f"version {decision.version} of {name}"), ("gate", decision.reason)]
    if told:
        facts.append(("prefect", f"{told} suspended flow run(s) resumed"))
    return Answer({"decision": decision.model_dump(mode="json"), "resumed": told}, facts)


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
