"""Who is told, and of what: events of graft's own, and Prefect automations that pass them on."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.server import server_is_named
from tasks.errors import ConfigError
from tasks.values import PromotionDecision

if TYPE_CHECKING:
    from prefect.automations import AutomationCore
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import BlockDocument

CHAMPION = "graft.champion.moved"
ALERTS = "graft.alert.*"  # those of flows.alerts
WEBHOOK = "webhook"
RESOURCE = "graft.model."  # with the model's name: what an event is about
FAILED = ("prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut")
RUN_WORDS = (
    "{{ flow_run.name }} ({{ flow.name }}): {{ flow_run.state.name }}. {{ flow_run.state.message }}"
)
EVENT_WORDS = "{{ event.resource.name }}: {{ event.payload.reason }}"

log = logging.getLogger(__name__)


def tell_promotion(decision: PromotionDecision) -> None:
    """Tell that the champion moved, where a decision moved it."""
    if decision.promoted:
        champion_moved(decision.model, decision.version, decision.champion_version, decision.reason)


def champion_moved(model: str, version: int, before: int | None, why: str) -> None:
    """Send the event that ``version`` is champion of ``model`` now, in the place of ``before``.

    To the Prefect server that the user named; nobody listens at a command's own. What goes wrong
    is logged: the champion has moved all the same.
    """
    if not server_is_named():
        return
    from prefect.events import emit_event

    instead = "the first one" if before is None else f"in the place of version {before}"
    words = f"Version {version} is champion, {instead}. {why}".strip()
    try:
        emit_event(
            CHAMPION,
            resource=resource_of(model),
            payload={"reason": words, "version": version, "before": before},
        )
    except Exception as error:  # whatever it is
        log.warning("nobody is told of the new champion: %s", error)


def resource_of(model: str) -> dict[str, str]:
    """Return how an event says which registered model it is about."""
    return {"prefect.resource.id": f"{RESOURCE}{model}", "prefect.resource.name": model}


def block_of(client: SyncPrefectClient, named: str) -> BlockDocument:
    """Return the block ``TYPE/NAME``; raises ``ConfigError`` where there is none."""
    from prefect.exceptions import ObjectNotFound

    kind, _, name = named.partition("/")
    try:
        return client.read_block_document_by_name(name, kind)
    except ObjectNotFound as error:
        raise ConfigError(
            f"There is no block {named!r} on the Prefect server.\n"
            "Make one in its pages, and name it as prefect block ls does: slack-webhook/team."
        ) from error


def make_automations(client: SyncPrefectClient, block: BlockDocument) -> list[str]:
    """Make the automations that notify by ``block``, or bring them up to date; return their names.

    A webhook block is called with JSON (subject, body); any other is a notification block of
    Prefect's: Slack, Teams, mail, a webhook of one's own and more.
    """
    made = []
    for automation in _automations(block):
        there = client.read_automations_by_name(automation.name)
        if there:
            client.update_automation(there[0].id, automation)
        else:
            client.create_automation(automation)
        made.append(automation.name)
    return made


def _automations(block: BlockDocument) -> list[AutomationCore]:
    about_runs = {"prefect.resource.id": "prefect.flow-run.*"}
    about_models = {"prefect.resource.id": f"{RESOURCE}*"}
    tagged = {"prefect.resource.id": "prefect.tag.graft", "prefect.resource.role": "tag"}
    return [
        _automation("graft: a run failed", FAILED, about_runs, RUN_WORDS, block, tagged),
        _automation("graft: a new champion", (CHAMPION,), about_models, EVENT_WORDS, block),
        _automation("graft: an alert", (ALERTS,), about_models, EVENT_WORDS, block),
    ]


def _automation(
    name: str,
    expect: tuple[str, ...],
    match: dict[str, str],
    words: str,
    block: BlockDocument,
    related: dict[str, str] | None = None,
) -> AutomationCore:
    from prefect.automations import AutomationCore, EventTrigger, Posture

    trigger = EventTrigger.model_validate(
        {
            "expect": set(expect),
            "match": match,
            "match_related": related or {},
            "for_each": {"prefect.resource.id"},
            "posture": Posture.Reactive,
            "threshold": 1,
            "within": timedelta(0),
        }
    )
    description = "Made by graft deploy --notify."
    actions = [_action(block, name, words)]
    return AutomationCore(name=name, description=description, trigger=trigger, actions=actions)


def _action(block: BlockDocument, subject: str, words: str) -> Any:  # noqa: ANN401 - one of two
    from prefect.automations import CallWebhook, SendNotification

    kind = block.block_type.slug if block.block_type is not None else ""
    if kind != WEBHOOK:
        return SendNotification(block_document_id=block.id, subject=subject, body=words)
    body = f"{{% set text %}}{words}{{% endset %}}{{{{ text | tojson }}}}"
    payload = f'{{"subject": "{subject}", "body": {body}}}'
    return CallWebhook(block_document_id=block.id, payload=payload)
