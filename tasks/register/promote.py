"""Register a fine-tuned model, and make it champion if it is shown to be better."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.errors import (
    DataError,
    EvaluationError,
    TrackingError,
    TransientTrackingError,
    WeightsError,
)
from tasks.evaluate.evaluate import score_weights
from tasks.index import read_index
from tasks.preprocess.prepare import prepare
from tasks.register.client import connect, tracking_errors
from tasks.register.gate import FIRST, Graded, Verdict, decide, obstacle, refuse
from tasks.register.packaging import log_model
from tasks.register.registry import CHAMPION, fetch_version, find_champion
from tasks.register.versions import (
    Draft,
    read_decision,
    take_back,
    version_tags,
    write_decision,
)
from tasks.retry import PASSING
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    PackedSplit,
    PreparedDataset,
    PromotionDecision,
    RawDataset,
    RegisteredModel,
)

TRIES = 5  # decisions, while another run keeps moving the alias
UNUSABLE = (TrackingError, WeightsError, EvaluationError, DataError)  # a champion's own faults

log = logging.getLogger(__name__)


def register(
    config: RunConfig,
    raw: RawDataset,
    prepared: PreparedDataset,
    model: FineTunedModel,
    report: EvaluationReport,
    run_id: str,
) -> PromotionDecision:
    """Register ``model`` as a new version of ``config.promotion.model`` and decide on promotion.

    The present champion is scored now, on this run's test images, by the code that scores the new
    version; the alias ``champion`` moves only if the exact McNemar test says so or if there is no
    champion. The decision and its numbers become ``promotion.`` tags of the version. Whatever is
    raised, Ctrl-C included, the registry is as it was before: the version is taken back.

    Safe to call again for one run, as Prefect does after a fault that may pass: what an earlier try
    could not take back goes first, and a decision that stands already is returned.

    Raises ``TrackingError``, or its transient kind, when MLflow fails, ``EvaluationError`` when
    the parts do not belong together.
    """
    if report.model_sha256 != model.sha256 or report.test_digest != prepared.test.digest:
        raise EvaluationError(
            "The evaluation report is of another model or another test set.\n"
            "Evaluate this model on this data, then register it."
        )
    client = connect()
    with tracking_errors("looking for an earlier try"):
        standing = read_decision(client, config.promotion.model, run_id)
        if standing is not None:
            return standing
        take_back(client, config.promotion.model, run_id)
    with _new_version(client, config, prepared, model, report, run_id) as version:
        with tracking_errors("reading the new version back"):
            challenger = fetch_version(version, cache_folder(config.output.cache))
        verdict, opponent = _decide(client, config, raw, prepared, challenger)
        decision = _decision(config, report, challenger, verdict, opponent, run_id)
        with tracking_errors("writing the decision down"):
            write_decision(client, version, decision)
    log.info("%s: %s", decision.uri, decision.reason)
    return decision


def standing_decision(config: RunConfig, run_id: str) -> PromotionDecision | None:
    """Return what ``register`` decided for a run, if it came that far; raises ``TrackingError``."""
    client = connect(create=False)
    with tracking_errors("looking for the decision"):
        return read_decision(client, config.promotion.model, run_id)


@contextmanager
def _new_version(
    client: MlflowClient,
    config: RunConfig,
    prepared: PreparedDataset,
    model: FineTunedModel,
    report: EvaluationReport,
    run_id: str,
) -> Iterator[ModelVersion]:
    """Yield a version that is READY; take it back if the block fails."""
    name = config.promotion.model
    with tracking_errors("storing the model"):
        separator = config.data.label_separator
        model_id, spec = log_model(client, run_id, model, report, prepared.val, separator)
    draft = Draft(client, name, run_id)
    try:
        with tracking_errors("registering the model"):
            version = draft.create(model_id, version_tags(config, spec, model, report))
        yield version
    except BaseException:
        draft.undo()
        raise


def _decide(
    client: MlflowClient,
    config: RunConfig,
    raw: RawDataset,
    prepared: PreparedDataset,
    challenger: RegisteredModel,
) -> tuple[Verdict, ModelVersion | None]:
    """Compare with the champion, again if another run moved the alias meanwhile.

    MLflow's aliases have no compare-and-set; this leaves a window of milliseconds, not minutes.
    """
    name = config.promotion.model
    for _ in range(TRIES):
        with tracking_errors("looking up the champion"):
            before = find_champion(client, name)
        verdict = FIRST if before is None else _compare(config, raw, prepared, challenger, before)
        with tracking_errors("looking up the champion"):
            after = find_champion(client, name)
        if _number(before) == _number(after):
            return verdict, before
    raise TransientTrackingError(
        f"Other runs keep moving the alias {CHAMPION} of {name}.\nRun again when they are done."
    )


def _number(version: ModelVersion | None) -> int | None:
    return None if version is None else int(version.version)


def _compare(
    config: RunConfig,
    raw: RawDataset,
    prepared: PreparedDataset,
    challenger: RegisteredModel,
    opponent: ModelVersion,
) -> Verdict:
    cache = cache_folder(config.output.cache)
    try:
        with tracking_errors("fetching the champion"):
            champion = fetch_version(opponent, cache)
        reason = obstacle(challenger, champion)
        if reason is not None:
            return refuse(reason)
        split = prepared.test
        if champion.input != prepared.input:
            split = prepare(config.data, config.seed, raw, champion.input, cache).test
        graded = _grade(config, champion, split)
    except PASSING:
        raise
    except UNUSABLE as error:
        reason = str(error).splitlines()[0]
        return refuse(f"The champion (version {opponent.version}) cannot be scored: {reason}")
    return decide(_grade(config, challenger, prepared.test), graded, config.promotion.alpha)


def _grade(config: RunConfig, model: RegisteredModel, split: PackedSplit) -> Graded:
    scores = score_weights(config, model, split)
    records = read_index(split.index)
    return Graded(
        classes=model.classes,
        images=tuple(f"{record.sha256} {record.label}" for record in records),
        correct_n=scores.correct_n,
        multi_label=model.multi_label,
    )


def _decision(
    config: RunConfig,
    report: EvaluationReport,
    challenger: RegisteredModel,
    verdict: Verdict,
    opponent: ModelVersion | None,
    run_id: str,
) -> PromotionDecision:
    return PromotionDecision(
        model=challenger.name,
        version=challenger.version,
        uri=challenger.uri,
        run_id=run_id,
        promoted=verdict.promoted,
        reason=verdict.reason,
        n=report.n,
        accuracy=report.accuracy,
        alpha=config.promotion.alpha,
        champion_version=_number(opponent),
        champion_accuracy=verdict.champion_accuracy,
        wins=verdict.wins,
        losses=verdict.losses,
        p_value=verdict.p_value,
    )
