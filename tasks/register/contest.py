"""Score a new version and the champion on the same test images, and let the gate decide."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.errors import DataError, EvaluationError, TrackingError, WeightsError
from tasks.evaluate.evaluate import score_as_served
from tasks.index import read_index
from tasks.preprocess.prepare import prepare
from tasks.register.client import tracking_errors
from tasks.register.figures import figures
from tasks.register.gate import Contender, Unscorable, Verdict, decide, obstacle
from tasks.register.learned import (
    LEARNED,
    LEARNED_FILE,
    Prefixes,
    count_seen,
    from_bytes,
    learned_images,
)
from tasks.register.paired import enough_draws
from tasks.register.registry import SHA256, download, fetch_version
from tasks.register.versions import TEST_DIGEST
from tasks.retry import PASSING
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    PackedSplit,
    PreparedDataset,
    RawDataset,
    RegisteredModel,
)

UNUSABLE = (TrackingError, WeightsError, EvaluationError, DataError)  # a champion's own faults

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contest:
    """A new version, scored from the registry's files, and all that a champion is scored with."""

    config: RunConfig
    raw: RawDataset
    prepared: PreparedDataset
    challenger: Contender

    def against(self, opponent: ModelVersion | None) -> Verdict:
        """Score the champion ``opponent`` on the same test images, and decide."""
        settings = self.config.promotion
        draws = enough_draws(settings.alpha, self.config.evaluation.bootstrap, self.config.seed)
        champion = None if opponent is None else self._champion(opponent)
        return decide(self.challenger, champion, settings, draws)

    def _champion(self, opponent: ModelVersion) -> Contender | Unscorable:
        try:
            return self._scored(opponent)
        except PASSING:
            raise
        except UNUSABLE as error:
            return Unscorable(int(opponent.version), str(error).splitlines()[0])

    def _scored(self, opponent: ModelVersion) -> Contender:
        cache = cache_folder(self.config.output.cache)
        with tracking_errors("fetching the champion"):
            champion = fetch_version(opponent, cache)
            learned = read_learned(opponent)
        if obstacle(self.challenger, champion) is not None:
            return Contender(champion.version, champion.classes, champion.multi_label)
        split = self.prepared.test
        if champion.input != self.prepared.input:
            data, seed = self.config.data, self.config.seed
            split = prepare(data, seed, self.raw, champion.input, cache).test
        return Contender(
            champion.version,
            champion.classes,
            champion.multi_label,
            images=image_keys(split),
            scores=score_as_served(self.config, champion, split),
            test_digest=split.digest,
            registered_digest=opponent.tags.get(TEST_DIGEST),
            seen=None if learned is None else count_seen(learned, read_index(split.index)),
        )


def open_contest(
    config: RunConfig,
    raw: RawDataset,
    prepared: PreparedDataset,
    report: EvaluationReport,
    model: RegisteredModel,
    inherited: Prefixes | None,
) -> Contest:
    """Score the new version ``model``, whose start had learned from ``inherited``.

    What it learned from itself is no matter here: the checks on the data let no test image in.
    """
    records = read_index(prepared.test.index)
    before = None if inherited is None else np.setdiff1d(inherited, learned_images(prepared))
    challenger = Contender(
        model.version,
        model.classes,
        model.multi_label,
        images=image_keys(prepared.test),
        scores=score_as_served(config, model, prepared.test),
        figures=figures(report),
        test_digest=prepared.test.digest,
        seen=None if before is None else count_seen(before, records),
    )
    return Contest(config, raw, prepared, challenger)


def image_keys(split: PackedSplit) -> tuple[str, ...]:
    """Return what tells sets of images apart: each image's file digest and label, in order."""
    return tuple(f"{record.sha256} {record.label}" for record in read_index(split.index))


def inherited_images(client: MlflowClient, model: FineTunedModel) -> Prefixes | None:
    """Return the images behind the weights that ``model`` started from, as far as versions say.

    None were learned from where no version of the registry has those weights; ``None`` where one
    has, and does not say, or its file is lost, which is logged.
    """
    found = np.empty(0, np.uint64)
    if model.backbone_sha256 is None:
        return found
    try:
        with tracking_errors("looking for the version that the weights come from"):
            wanted = f"tags.`{SHA256}` = '{model.backbone_sha256}'"
            for version in client.search_model_versions(wanted):
                learned = read_learned(version)
                if learned is None:
                    return None
                found = np.union1d(found, learned)
    except PASSING:
        raise
    except TrackingError as error:
        log.warning("what the weights learned from before is not known: %s", error)
        return None
    return found


def read_learned(version: ModelVersion) -> Prefixes | None:
    """Return the images that a version learned from; ``None`` where it does not say.

    Raises ``TrackingError`` when the file is missing or is not the one that was registered.
    """
    digest = version.tags.get(LEARNED)
    if digest is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return from_bytes(download(version, LEARNED_FILE, Path(scratch), digest).read_bytes())
