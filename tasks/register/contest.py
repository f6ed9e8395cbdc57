"""Have a new version and the champion scored on the same test images, and let the gate decide."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import or_
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.errors import (
    ConfigError,
    DataError,
    EvaluationError,
    ResourceError,
    TrackingError,
    WeightsError,
)
from tasks.evaluate.calibration import scaled
from tasks.evaluate.evaluate import score_as_served
from tasks.evaluate.lately import recall
from tasks.evaluate.score import Scores
from tasks.index import read_index
from tasks.preprocess.prepare import prepare
from tasks.register.client import tracking_errors
from tasks.register.figures import figures
from tasks.register.files import SHA256
from tasks.register.gate import Contender, Unscorable, Verdict, decide, obstacle
from tasks.register.learned import LEARNED, LEARNED_FILE, PARTLY, Learned, read_list
from tasks.register.paired import enough_draws
from tasks.register.registry import fetch_version
from tasks.register.stored import download
from tasks.register.versions import TEST_DIGEST
from tasks.register.warm_start import SCHEME
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
BEYOND = (ConfigError, ResourceError)  # of a package it needs, or memory, that is not here

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contest:
    """A new version, as the registry has it, and all that it and a champion are scored with."""

    config: RunConfig
    raw: RawDataset
    prepared: PreparedDataset
    model: RegisteredModel
    challenger: Contender  # without scores: a first version needs none

    def against(self, opponent: ModelVersion | None) -> Verdict:
        """Score the champion ``opponent`` and, once, the new version, if there is one to meet."""
        settings = self.config.promotion
        draws = enough_draws(settings.alpha, self.config.evaluation.bootstrap, self.config.seed)
        champion = None if opponent is None else self._champion(opponent)
        challenger = self.challenger
        if isinstance(champion, Contender) and champion.scores is not None:
            challenger = replace(challenger, scores=self._scores)
        return decide(challenger, champion, settings, draws)

    @cached_property
    def _scores(self) -> Scores:
        return self._served(self.model, self.prepared.test)

    def _served(self, model: RegisteredModel, split: PackedSplit) -> Scores:
        """Score with a version as it is served; its report's scores are taken where they are."""
        known = recall(self.config, model, split)
        if known is None:
            return score_as_served(self.config, model, split)
        return scaled(known, model.temperature)

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
            learned = learned_by(opponent)
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
            scores=self._scores_of(champion, split),
            test_digest=split.digest,
            registered_digest=opponent.tags.get(TEST_DIGEST),
            seen=learned.seen_of(read_index(split.index)),
        )

    def _scores_of(self, champion: RegisteredModel, split: PackedSplit) -> Scores:
        try:
            return self._served(champion, split)
        except BEYOND as error:  # the new version, scored here as well, has no part in it
            why = str(error).splitlines()[0]
            raise EvaluationError(f"this machine cannot: {why}") from error


def open_contest(
    config: RunConfig,
    raw: RawDataset,
    prepared: PreparedDataset,
    report: EvaluationReport,
    model: RegisteredModel,
    own: Learned,
    inherited: Learned,
) -> Contest:
    """Return the contest of the new version ``model``, whose start had learned from ``inherited``.

    Test images that it learned from itself, which data.checks.exact_duplicates=warn lets pass, are
    counted apart from those that are behind its start or its teacher.
    """
    records = read_index(prepared.test.index)
    own_n = own.seen(records)
    others = [record for record, known in zip(records, own_n, strict=True) if not known]
    challenger = Contender(
        model.version,
        model.classes,
        model.multi_label,
        images=image_keys(prepared.test),
        figures=figures(report),
        test_digest=prepared.test.digest,
        seen=inherited.seen_of(others),
        own=int(own_n.sum()),
    )
    return Contest(config, raw, prepared, model, challenger)


def image_keys(split: PackedSplit) -> tuple[str, ...]:
    """Return what tells sets of images apart: each image's file digest and label, in order."""
    return tuple(f"{record.sha256} {record.label}" for record in read_index(split.index))


def inherited_images(client: MlflowClient, config: RunConfig, model: FineTunedModel) -> Learned:
    """Return the images behind the weights that ``model`` started from and behind its teacher's.

    What versions with those weights say, which holds all that was behind them in turn. Weights of
    no version, as those of a file, are taken to have learned from no image of ours; not so where
    the config names a version, or a teacher: then it has been deleted since, and is not known.
    """
    named = (config.model.weights or "").startswith(SCHEME)
    start = _behind(client, model.backbone_sha256, named)
    return start | _behind(client, model.teacher_sha256, named=True)


def _behind(client: MlflowClient, sha256: str | None, named: bool) -> Learned:
    """Return what the versions with these weights learned from; ``named``: there must be one."""
    if sha256 is None:
        return Learned()
    found: list[Learned] = []
    versions: list[ModelVersion] = []
    with _or_unknown(found):
        versions += client.search_model_versions(f"tags.`{SHA256}` = '{sha256}'")
    for version in versions:
        with _or_unknown(found):  # of one: what the others say counts
            found.append(learned_by(version))
    return reduce(or_, found, Learned(complete=bool(found) or not named))


@contextmanager
def _or_unknown(found: list[Learned]) -> Iterator[None]:
    """Where the block fails for good, log it and add to ``found`` that not all is known."""
    try:
        with tracking_errors("looking for the version that weights come from"):
            yield
    except PASSING:
        raise
    except TrackingError as error:
        log.warning("what the weights learned from before is not known: %s", error)
        found.append(Learned(complete=False))


def learned_by(version: ModelVersion) -> Learned:
    """Return the images that a version, and what is behind it, learned from, as far as it says.

    Raises ``TrackingError`` when the file is missing or is not the one that was registered.
    """
    digest = version.tags.get(LEARNED)
    if digest is None:
        return Learned(complete=False)
    with tempfile.TemporaryDirectory() as scratch:
        file = download(version, LEARNED_FILE, Path(scratch), digest)
        return read_list(file, complete=PARTLY not in version.tags)


def read_learned(version: ModelVersion) -> Learned | None:
    """Return what ``learned_by`` does; ``None`` where a version does not say all."""
    learned = learned_by(version)
    return learned if learned.complete else None
