"""Register a fine-tuned model, and make it champion if the gate says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.errors import EvaluationError, TransientTrackingError
from tasks.evaluate.lately import forget
from tasks.register.client import connect, tracking_errors
from tasks.register.contest import Contest, inherited_images, open_contest
from tasks.register.gate import Verdict
from tasks.register.learned import PARTLY, Learned, learned_images
from tasks.register.packaging import log_model
from tasks.register.paired import Comparison
from tasks.register.reasons import fitting
from tasks.register.registry import CHAMPION, fetch_version, find_champion
from tasks.register.sameness import work_tags
from tasks.register.versions import (
    Draft,
    forget_decision,
    read_decision,
    take_back,
    version_tags,
    write_decision,
)
from tasks.register.wire import wait_for_server
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    PreparedDataset,
    PromotionDecision,
    RawDataset,
)
from tasks.work import Work

TRIES = 5  # decisions, while another run keeps moving the alias

log = logging.getLogger(__name__)


def register(
    config: RunConfig,
    raw: RawDataset,
    prepared: PreparedDataset,
    model: FineTunedModel,
    report: EvaluationReport,
    run_id: str,
    work: Work | None = None,
) -> PromotionDecision:
    """Register ``model`` as a new version of ``config.promotion.model`` and decide on promotion.

    The present champion is scored now, on this run's test images, by the code that scores the new
    version; the alias ``champion`` moves only if ``tasks.register.gate`` says so, and under
    ``promotion.approval`` not before a person has agreed. The decision, its
    reasons and its numbers become ``promotion.`` tags of the version. Whatever is raised, Ctrl-C
    included, the registry is as it was before: the version is taken back.

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
    if model.data_digest != prepared.digest:  # whose images would count as those it learned from
        raise EvaluationError(
            "The model was fine-tuned on other data than it is to be registered with.\n"
            "Register it with the data of its own run."
        )
    wait_for_server()
    client = connect()
    with tracking_errors("looking for an earlier try"):
        standing = read_decision(client, config.promotion.model, run_id)
        if standing is not None:
            return standing
        take_back(client, config.promotion.model, run_id)
    own, inherited = learned_images(prepared), inherited_images(client, config, model)
    tags, learned = {} if work is None else work_tags(work), own | inherited
    with _new_version(client, config, prepared, model, report, run_id, learned, tags) as version:
        with tracking_errors("reading the new version back"):
            challenger = fetch_version(version, cache_folder(config.output.cache))
        contest = open_contest(config, raw, prepared, report, challenger, own, inherited)
        decision = _settle(client, contest, version, report, run_id)
    forget()  # the scores of its report, which nobody wants again
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
    learned: Learned,
    more_tags: dict[str, str],
) -> Iterator[ModelVersion]:
    """Yield a version that is READY; take it back if the block fails."""
    name = config.promotion.model
    with tracking_errors("storing the model"):
        separator = config.data.label_separator
        logged = log_model(client, run_id, model, report, prepared.val, separator, learned)
    tags = version_tags(config, logged, model, report) | more_tags
    if not learned.complete:
        tags[PARTLY] = "true"
    draft = Draft(client, name, run_id)
    try:
        with tracking_errors("registering the model"):
            version = draft.create(logged.model_id, tags)
        yield version
    except BaseException:
        draft.undo()
        raise


def _settle(
    client: MlflowClient,
    contest: Contest,
    version: ModelVersion,
    report: EvaluationReport,
    run_id: str,
) -> PromotionDecision:
    """Decide and put it into effect, again if another run moved the alias meanwhile."""
    for _ in range(TRIES):
        opponent = _champion(client, version.name)
        verdict = contest.against(opponent)
        if _number(_champion(client, version.name)) != _number(opponent):
            continue
        decision = _decision(contest, version, report, verdict, opponent, run_id)
        try:
            with tracking_errors("writing the decision down"):
                write_decision(client, version, decision)
        except TransientTrackingError as error:
            now = _number(_champion(client, version.name))
            if now in (_number(opponent), int(version.version)):  # nobody came between
                raise
            log.info("%s is decided on again: %s", decision.uri, error)
            forget_decision(client, version)
        else:
            return decision
    raise TransientTrackingError(
        f"Other runs keep moving the alias {CHAMPION} of {version.name}.\n"
        "Run again when they are done."
    )


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    with tracking_errors("looking up the champion"):
        return find_champion(client, name)


def _number(version: ModelVersion | None) -> int | None:
    return None if version is None else int(version.version)


def _decision(
    contest: Contest,
    version: ModelVersion,
    report: EvaluationReport,
    verdict: Verdict,
    opponent: ModelVersion | None,
    run_id: str,
) -> PromotionDecision:
    settings, found = contest.config.promotion, verdict.comparison
    reasons = fitting(verdict.reasons)
    return PromotionDecision(
        model=version.name,
        version=int(version.version),
        uri=f"models:/{version.name}/{version.version}",
        run_id=run_id,
        promoted=verdict.promoted and not settings.approval,
        waiting=verdict.promoted and settings.approval,
        reason=" ".join(reasons),
        reasons=reasons,
        checks=fitting(verdict.checks),
        n=report.n,
        accuracy=report.accuracy,
        alpha=settings.alpha,
        rule=settings.rule,
        metric=settings.metric,
        margin=settings.margin if settings.rule == "non_inferiority" else None,
        test_digest=report.test_digest,
        champion_version=_number(opponent),
        **({} if found is None else _numbers(found)),
    )


def _numbers(found: Comparison) -> dict[str, Any]:
    return {
        "champion_accuracy": found.theirs_accuracy,
        "value": found.ours,
        "champion_value": found.theirs,
        "difference": found.gain,
        "difference_low": found.low,
        "difference_high": found.high,
        "detectable": found.detectable,
        "wins": found.wins,
        "losses": found.losses,
        "p_value": found.p_value,
        "level": found.level,
    }
