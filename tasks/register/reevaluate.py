"""Whether a registered model is still as accurate, on new labelled images, as it was."""

from __future__ import annotations

import time
from pathlib import Path

from tasks.artifacts import cache_folder
from tasks.download.fresh import Labels
from tasks.errors import TrackingError
from tasks.evaluate.calibration import scaled
from tasks.evaluate.metrics import Metrics, measure
from tasks.evaluate.two_accuracies import Difference, accuracy_difference, detectable_loss
from tasks.evaluate.watch_report import percent, points, write_reevaluation
from tasks.monitorconfig import ReevaluateConfig
from tasks.monitorvalues import ReevaluationReport
from tasks.register.newimages import common_facts, opened, packed
from tasks.register.versions import decision_on
from tasks.register.watching import Watched, WatchRun, fetch_watched
from tasks.retry import with_retries
from tasks.values import PromotionDecision

NAMES = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "balanced_accuracy",
    "macro_f1",
    "log_loss",
)


def check_accuracy(config: ReevaluateConfig, run: WatchRun, folder: Path) -> ReevaluationReport:
    """Score the model on new labelled images as the gate would; write the report into ``folder``.

    Images that the model is known to have learned from are left out. Raises ``TrackingError``
    where the version does not say how accurate it was, ``DataError`` for labels that the model
    does not know, and as the rooms that fetch, decode and score.
    """
    start = time.monotonic()
    watched = with_retries(fetch_watched, config.model, cache_folder(config.output.cache))
    model, before = watched.model, _registered(watched)
    labels = Labels(model.classes, model.multi_label, model.label_separator)
    with packed(config, config.images, watched, labels, unseen_only=True) as images:
        with opened(config, model) as scorer:
            scores = scaled(scorer.score(images.split), model.temperature)
        facts = common_facts(config, run, folder, watched, images)
    found = measure(scores, model.classes)
    right_before, right = round(before.accuracy * before.n), int(scores.correct_n.sum())
    change = accuracy_difference(right_before, before.n, right, facts["n"], config.alpha)
    alert = change.high < -config.margin
    report = ReevaluationReport(
        **facts,
        **_figures(found),
        alert=alert,
        reason=_reason(config, before, found, change, alert),
        registered_accuracy=before.accuracy,
        registered_n=before.n,
        margin=config.margin,
        difference=change.value,
        difference_low=change.low,
        difference_high=change.high,
        detectable=detectable_loss(
            before.accuracy, before.n, facts["n"], config.margin, config.alpha
        ),
        seconds=time.monotonic() - start,
    )
    write_reevaluation(report)
    with_retries(run.finished, report, _metrics(report))
    return report


def _registered(watched: Watched) -> PromotionDecision:
    """Return the decision on a version, which says how accurate it was on how many images."""
    decision = decision_on(watched.version)
    if decision is None:
        raise TrackingError(
            f"{watched.model.uri} does not say how accurate it was when it was registered.\n"
            "Name a version that graft run has registered."
        )
    return decision


def _figures(found: Metrics) -> dict[str, object]:
    return {name: getattr(found, name) for name in (*NAMES, "classes")}


def _reason(
    config: ReevaluateConfig,
    before: PromotionDecision,
    found: Metrics,
    change: Difference,
    alert: bool,
) -> str:
    verdict = "worse" if alert else "not shown to be worse"
    return (
        f"The model is {verdict} by more than {100 * config.margin:g} points: "
        f"{percent(found.accuracy)} now, {percent(before.accuracy)} at registration, a difference "
        f"of {points(change.low)} to {points(change.high)} points."
    )


def _metrics(report: ReevaluationReport) -> dict[str, float]:
    names = [*NAMES, "difference", "difference_low", "difference_high", "registered_accuracy"]
    return {name: getattr(report, name) for name in names} | {
        "images": report.n,
        "alert": float(report.alert),
    }
