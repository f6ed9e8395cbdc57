"""A person's yes or no to a promotion, as a Prefect flow that is suspended until it comes.

Apart from the flow ``transfer``, so that no process and no GPU waits with it. It is approved from
Prefect's pages (Resume, and a form), or by ``graft approve``.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow, suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import resume_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.console import ready_logs
from flows.fleet import ASKING, suspended
from flows.notify import tell_promotion
from tasks.errors import TrackingError
from tasks.evaluate.tables import escape_markdown
from tasks.register import approval as registry
from tasks.register.facts import user_name
from tasks.register.history import LONGEST_NAME, Kind
from tasks.retry import PASSING, with_retries
from tasks.values import PromotionDecision
from tasks.words import printable

DEPLOYMENT = "approval/approval"
RUN_NAME = ASKING + "{model}/{version}"
SECONDS = 30 * 24 * 3600  # a suspended run fails after this; graft approve works all the same

log = logging.getLogger(__name__)


class Verdict(RunInput):
    """What the form in Prefect's pages asks; the server takes no form without a name."""

    approve: bool = Field(description="Make the version champion.")
    name: str = Field(
        description="Who decides, for the history.", pattern=r"\S", max_length=LONGEST_NAME
    )
    reason: str = Field("", description="Why, for the history.")


@flow(name="approval", flow_run_name=RUN_NAME)
def approval(model: str, version: int) -> PromotionDecision:
    """Wait, suspended, for a person's verdict on a version, and put it into effect.

    Recorded under the name that was typed: the worker's user decides nothing. Returns at once where
    the version does not wait: ``graft approve`` was quicker. Raises ``TrackingError`` as
    ``tasks.register.approval`` does.
    """
    ready_logs()
    decision = with_retries(registry.standing, model, str(version))
    if not decision.waiting:
        return decision
    form = Verdict.with_initial_data(description=_question(decision), approve=False)
    verdict = suspend_flow_run(wait_for_input=form, timeout=SECONDS)
    settled = with_retries(_settle, model, str(version), verdict)
    tell_promotion(settled)
    return settled


def _settle(model: str, version: str, verdict: Verdict) -> PromotionDecision:
    """Put a verdict into effect; one that an earlier try did, and did not hear of, is in effect."""
    settle = registry.approve if verdict.approve else registry.reject
    try:
        return settle(model, version, verdict.reason, verdict.name)
    except PASSING:
        raise
    except TrackingError:
        kind: Kind = "approved" if verdict.approve else "rejected"
        landed = registry.answered(model, version, kind, verdict.name)
        if landed is None:
            raise
        return landed


def _question(decision: PromotionDecision) -> str:
    champion = decision.champion_version
    place = "there is no champion" if champion is None else f"in the place of version {champion}"
    return f"Make `{decision.uri}` champion ({place})?\n\n{escape_markdown(decision.reason)}"


def ask(decision: PromotionDecision) -> None:
    """Start the flow where the Prefect server has a deployment of it; else say what to type."""
    if not decision.waiting:
        return
    parameters = {"model": decision.model, "version": decision.version}
    name = RUN_NAME.format(**parameters)  # at once, not only when a worker starts the run
    try:
        run_deployment(
            DEPLOYMENT, parameters=parameters, flow_run_name=name, timeout=0, as_subflow=False
        )
    except ObjectNotFound:
        log.info("%s waits for graft approve %s %s", decision.uri, *parameters.values())
    except Exception as error:  # the decision stands, and can be approved by hand
        log.warning("nobody is asked in Prefect to approve %s: %s", decision.uri, error)


def answer(decision: PromotionDecision, reason: str) -> int:
    """Resume the flow runs that wait for a verdict that is in effect; return how many did."""
    name = printable(user_name())[:LONGEST_NAME]
    told = {"approve": decision.promoted, "name": name, "reason": reason}
    with get_client(sync_client=True) as client:
        asked = [run for run in suspended(client) if _is_about(run, decision)]
    for run in asked:
        resume_flow_run(run.id, run_input=told)
    return len(asked)


def _is_about(run: FlowRun, decision: PromotionDecision) -> bool:
    given: dict[str, Any] = run.parameters
    return (given.get("model"), given.get("version")) == (decision.model, decision.version)
