"""Write to the model registry: make a version, note the decision, move the alias, undo.

A decision stands once the tag ``promotion.promoted`` is written, the last thing of all. A version
without it is half-made, and whoever meets it takes it back: the try that made it, or the next one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.config import RunConfig
from tasks.errors import GraftError, TransientTrackingError
from tasks.register.classifier import ModelSpec
from tasks.register.client import named_store, tracking_errors
from tasks.register.registry import CHAMPION, SHA256, SPEC_SHA256, find_champion
from tasks.values import EvaluationReport, FineTunedModel, PromotionDecision

READY_SECONDS = 60.0  # longest wait for a version that the server still copies
POLL_SECONDS = 0.5
PENDING = "PENDING_REGISTRATION"
PREFIX = "promotion."
PROMOTED = f"{PREFIX}promoted"
DESCRIPTION = "An image classifier fine-tuned with graft; the alias champion is the best one."

log = logging.getLogger(__name__)


def version_tags(
    config: RunConfig, spec: ModelSpec, model: FineTunedModel, report: EvaluationReport
) -> dict[str, str]:
    """Return what a version says about itself: digests of its files, its run and its data."""
    return {
        SHA256: spec.sha256,
        SPEC_SHA256: spec.digest,
        "graft.version": spec.graft_version,
        "graft.run": config.name,
        "graft.architecture": model.architecture,
        "graft.strategy": model.strategy,
        "graft.backbone_sha256": model.backbone_sha256 or "none",
        "graft.data_digest": model.data_digest,
        "graft.test_digest": report.test_digest,
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
        _give_alias_back(client, version)
        client.delete_model_version(name, version.version)
    experiment_id = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment_id], f"source_run_id='{run_id}'"):
        if source_of(model.model_id) not in kept:
            client.delete_logged_model(model.model_id)


def _give_alias_back(client: MlflowClient, version: ModelVersion) -> None:
    """Make the former champion champion again, if ``version`` took its place."""
    champion = find_champion(client, version.name)
    before = version.tags.get(f"{PREFIX}champion_version")
    if champion is not None and champion.version == version.version and before is not None:
        client.set_registered_model_alias(version.name, CHAMPION, before)


def write_decision(
    client: MlflowClient, version: ModelVersion, decision: PromotionDecision
) -> None:
    """Put the decision into effect: its numbers as tags, the alias, and that it stands.

    In this order, so that ``take_back`` finds the former champion in the tags, and no version says
    promoted that is not. No tag is written for a number that there is none of.
    """
    facts = decision.model_dump(exclude={"model", "version", "uri", "run_id", "promoted"})
    for key, value in facts.items():
        if value is not None:
            _tag(client, version, f"{PREFIX}{key}", str(value))
    if decision.promoted:
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
    _tag(client, version, PROMOTED, str(decision.promoted).lower())


def _tag(client: MlflowClient, version: ModelVersion, key: str, value: str) -> None:
    client.set_model_version_tag(version.name, version.version, key, value)


def read_decision(client: MlflowClient, name: str, run_id: str) -> PromotionDecision | None:
    """Return the decision on a run's version, if one stands."""
    for version in versions_of(client, name, run_id):
        if PROMOTED in version.tags:
            return _decision_on(version, run_id)
    return None


def _decision_on(version: ModelVersion, run_id: str) -> PromotionDecision:
    name, number = version.name, version.version
    facts = {"model": name, "version": number, "uri": f"models:/{name}/{number}", "run_id": run_id}
    for field in PromotionDecision.model_fields.keys() - facts.keys():
        if f"{PREFIX}{field}" in version.tags:
            facts[field] = version.tags[f"{PREFIX}{field}"]
    return PromotionDecision.model_validate(facts)
