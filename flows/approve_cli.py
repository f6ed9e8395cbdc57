"""``graft approve``: a person's yes or no to a version that the gate would promote."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import verdicts
from flows.answer import Answer
from flows.arguments import Json
from flows.printing import answer
from flows.registry_cli import Name, Reason, Version

Reject = Annotated[bool, typer.Option("--reject", help="Say no: the champion stays.")]


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
    decision, told = verdicts.settle(name, version, reason, approve=not reject)
    said = "rejected" if reject else "champion"
    facts = [(said, f"version {decision.version} of {name}"), ("gate", decision.reason)]
    if told:
        facts.append(("prefect", f"{told} suspended flow run(s) resumed"))
    return Answer({"decision": decision.model_dump(mode="json"), "resumed": told}, facts)
