"""Write to the model registry: make a version, note the decision, move the alias, undo.

A decision stands once the tag ``promotion.promoted`` is written, the last thing of all. A version
without it is half-made, and whoever meets it takes it back: the try that made it, or the next one.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.config import RunConfig
from tasks.errors import GraftError, TransientTrackingError
from tasks.register.aliases import move_champion, name_challenger, take_aliases_back
from tasks.register.client import named_store, tracking_errors
from tasks.register.files import FILES, SHA256, SPEC_SHA256
from tasks.register.history import Kind
from tasks.register.learned import LEARNED
from tasks.register.packaging import REFERENCE, Logged
from tasks.register.verify import verify_version
from tasks.values import EvaluationReport, FineTunedModel, PromotionDecision

READY_SECONDS = 60.0  # longest wait for a version that the server still copies
POLL_SECONDS = 0.5
PENDING = "PENDING_REGISTRATION"
TEST_DIGEST = "graft.test_digest"  # version tag
PREFIX = "promotion."
PROMOTED = f"{PREFIX}promoted"
DESCRIPTION = "An image classifier fine-tuned with graft; the alias champion is the best one."

log = logging.getLogger(__name__)


def version_tags(
    config: RunConfig, logged: Logged, model: FineTunedModel, report: EvaluationReport
) -> dict[str, str]:
    """Return what a version says about itself: digests of its files, its run and its data."""
    spec = logged.spec
    return {
        FILES: logged.files_digest,
        SHA256: spec.sha256,
        SPEC_SHA256: spec.digest,
        "graft.version": spec.graft_version,
        "graft.run": config.name,
        "graft.architecture": model.architecture,
        "graft.strategy": model.strategy,
        "graft.backbone_sha256": model.backbone_sha256 or "none",
        **({"graft.teacher_sha256": model.teacher_sha256} if model.teacher_sha256 else {}),
        "graft.data_digest": model.data_digest,
        TEST_DIGEST: report.test_digest,
        **({LEARNED: logged.learned_digest} if logged.learned_digest else {}),
        **({REFERENCE: report.reference} if report.reference else {}),
        **({"graft.multi_label": "true"} if spec.multi_label else {}),
    }


@dataclass
class Draft:
    """A version in the making, and all that goes again if it comes to nothing."""

    client: MlflowClient
    name: str
    run_id: str
    made_model: bool = False

    def create(self, model_id: str, tags: dict[str, str]) -> ModelVersion:
        """Register the logged model as the next version of ``name``; wait until it is READY."""
        try:
            self.client.create_registered_model(self.name, description=DESCRIPTION)
            self.made_model = True
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with named_store():
            version = self.client.create_model_version(
                self.name,
                source=source_of(model_id),
                run_id=self.run_id,
                tags=tags,
                await_creation_for=0,
                model_id=model_id,
            )
        return _ready(self.client, version)

    def undo(self) -> None:
        """Take everything back; a fault here is logged, so as not to hide what led here."""
        try:
            with tracking_errors("taking the version back"):
                take_back(self.client, self.name, self.run_id)
                if self.made_model and not self._versions():
                    self.client.delete_registered_model(self.name)
        except GraftError as fault:
            log.warning("a version of %s may be left behind: %s", self.name, fault)

    def _versions(self) -> list[ModelVersion]:
        return list(self.client.search_model_versions(f"name='{self.name}'", max_results=1))


def source_of(model_id: str) -> str:
    """Return where a version of the logged model ``model_id`` comes from."""
    return f"models:/{model_id}"


def _ready(client: MlflowClient, made: ModelVersion) -> ModelVersion:
    deadline = time.monotonic() + READY_SECONDS
    version = client.get_model_version(made.name, made.version)
    while version.status == PENDING and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        version = client.get_model_version(made.name, made.version)
    if version.status != "READY":
        raise TransientTrackingError(
            f"Version {version.version} of {version.name} is {version.status}, not ready.\n"
            "Run again; if it happens twice, look at the server's log."
        )
    return version


def versions_of(client: MlflowClient, name: str, run_id: str) -> list[ModelVersion]:
    """Return the versions of ``name`` that a run made; more than one only after a fault."""
    return list(client.search_model_versions(f"name='{name}' and run_id='{run_id}'"))


def take_back(client: MlflowClient, name: str, run_id: str) -> None:
    """Delete what a run left half-made: versions without a decision, and their logged models."""
    kept = set()
    for version in versions_of(client, name, run_id):
        if PROMOTED in version.tags:
            kept.add(version.source)
            continue
        before = version.tags.get(f"{PREFIX}champion_version")
        take_aliases_back(client, version, None if before is None else int(before))
        client.delete_model_version(name, version.version)
    experiment_id = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment_id], f"source_run_id='{run_id}'"):
        if source_of(model.model_id) not in kept:
            client.delete_logged_model(model.model_id)


def write_decision(
    client: MlflowClient, version: ModelVersion, decision: PromotionDecision
) -> None:
    """Put the decision into effect: its numbers as tags, the aliases, and that it stands.

    In this order, so that ``take_back`` finds the former champion in the tags, and no version says
    promoted that is not. No tag is written for a number that there is none of; what is no number
    or text is written as JSON. A version to promote has its files checked in the registry first.
    Raises ``TransientTrackingError`` when the champion is another than the decision was made for.
    """
    if decision.promoted:
        verify_version(client, version)
    apart = {"model", "version", "uri", "run_id", "promoted"}
    for key, value in decision.model_dump(mode="json", exclude=apart).items():
        if value is not None:
            text = json.dumps(value) if isinstance(value, list | dict) else str(value)
            _tag(client, version, f"{PREFIX}{key}", text)
    if decision.promoted:
        move_champion(
            client, version, decision.champion_version, decision.reason, decision=decision
        )
    else:
        kind: Kind = "waiting" if decision.waiting else "refused"
        name_challenger(client, version, kind, decision)
    _tag(client, version, PROMOTED, str(decision.promoted).lower())


def settle(
    client: MlflowClient, version: ModelVersion, decision: PromotionDecision, promoted: bool
) -> PromotionDecision:
    """Write down what became of a decision that waited for a person; return it as it is now."""
    settled = decision.model_copy(update={"waiting": False, "promoted": promoted})
    _tag(client, version, PROMOTED, str(settled.promoted).lower())
    _tag(client, version, f"{PREFIX}waiting", str(settled.waiting))
    return settled


def forget_decision(client: MlflowClient, version: ModelVersion) -> None:
    """Take the tags of a decision away that was not put into effect, as another takes its place."""
    with tracking_errors("taking a decision back"):
        written = client.get_model_version(version.name, version.version).tags
        for key in (key for key in written if key.startswith(PREFIX)):
            client.delete_model_version_tag(version.name, version.version, key)


def _tag(client: MlflowClient, version: ModelVersion, key: str, value: str) -> None:
    client.set_model_version_tag(version.name, version.version, key, value)


def read_decision(client: MlflowClient, name: str, run_id: str) -> PromotionDecision | None:
    """Return the decision on a run's version, if one stands."""
    decisions = (decision_on(version) for version in versions_of(client, name, run_id))
    return next((decision for decision in decisions if decision is not None), None)


def decision_on(version: ModelVersion) -> PromotionDecision | None:
    """Return the decision on a version as its tags tell it, if one stands."""
    if PROMOTED not in version.tags:
        return None
    name, number, run_id = version.name, version.version, version.run_id or ""
    facts = {"model": name, "version": number, "uri": f"models:/{name}/{number}", "run_id": run_id}
    for field in PromotionDecision.model_fields.keys() - facts.keys():
        text = version.tags.get(f"{PREFIX}{field}")
        if text is not None:
            words = PromotionDecision.model_fields[field].annotation is str
            facts[field] = text if words or text[:1] not in "[{" else json.loads(text)
    return PromotionDecision.model_validate(facts)
