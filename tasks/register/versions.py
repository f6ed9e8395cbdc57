"""Write to the model registry: make a version, note the decision, move the alias, undo."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.config import RunConfig
from tasks.errors import GraftError, TransientTrackingError
from tasks.register.classifier import ModelSpec
from tasks.register.client import named_store, tracking_errors
from tasks.register.registry import CHAMPION, SHA256, SPEC_SHA256
from tasks.values import EvaluationReport, FineTunedModel, PromotionDecision

READY_SECONDS = 60
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
    }


@dataclass
class Draft:
    """A version in the making, and all that goes again if it comes to nothing."""

    client: MlflowClient
    name: str
    model_id: str
    made_model: bool = False
    version: ModelVersion | None = None

    def create(self, run_id: str, tags: dict[str, str]) -> ModelVersion:
        """Register the logged model as the next version of ``name``; wait until it is READY."""
        try:
            self.client.create_registered_model(self.name, description=DESCRIPTION)
            self.made_model = True
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with named_store():
            version = self.version = self.client.create_model_version(
                self.name,
                source=f"models:/{self.model_id}",
                run_id=run_id,
                tags=tags,
                await_creation_for=READY_SECONDS,
                model_id=self.model_id,
            )
        if version.status != "READY":
            raise TransientTrackingError(
                f"Version {version.version} of {self.name} is {version.status}, not ready.\n"
                "Run again; if it happens twice, look at the server's log."
            )
        return version

    def undo(self) -> None:
        """Take everything back; a fault here is logged, so as not to hide what led here."""
        try:
            with tracking_errors("taking the version back"):
                if self.version is not None:
                    self.client.delete_model_version(self.name, self.version.version)
                if self.made_model and not self._versions():
                    self.client.delete_registered_model(self.name)
                self.client.delete_logged_model(self.model_id)
        except GraftError as fault:
            log.warning("a version of %s may be left behind: %s", self.name, fault)

    def _versions(self) -> list[ModelVersion]:
        return list(self.client.search_model_versions(f"name='{self.name}'", max_results=1))


def write_decision(
    client: MlflowClient, version: ModelVersion, decision: PromotionDecision
) -> None:
    """Write the decision's numbers on the version, as ``promotion.`` tags; none for no value."""
    values = {
        "promoted": str(decision.promoted).lower(),
        "reason": decision.reason,
        "n": decision.n,
        "accuracy": decision.accuracy,
        "alpha": decision.alpha,
        "champion_version": decision.champion_version,
        "champion_accuracy": decision.champion_accuracy,
        "wins": decision.wins,
        "losses": decision.losses,
        "p_value": decision.p_value,
    }
    for key, value in values.items():
        if value is not None:
            tag = str(value)
            client.set_model_version_tag(version.name, version.version, f"promotion.{key}", tag)


def crown(client: MlflowClient, version: ModelVersion, before: ModelVersion | None) -> None:
    """Move the alias champion to ``version``; on a fault, Ctrl-C included, move it back."""
    try:
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
    except BaseException:
        if before is not None:
            client.set_registered_model_alias(version.name, CHAMPION, before.version)
        raise
