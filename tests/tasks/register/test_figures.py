"""A report's figures by name, and the floors and limits on them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tasks.measures import Corruption, Curve, Estimate, Novelty, Rejection, Slice, Speed
from tasks.register.figures import check_bounds, figures
from tasks.values import ClassReport, EvaluationReport

DIGEST = "0" * 64
REPORT = EvaluationReport(
    folder=Path(),
    model_sha256=DIGEST,
    test_digest=DIGEST,
    n=30,
    accuracy=0.9,
    accuracy_low=0.8,
    accuracy_high=0.95,
    balanced_accuracy=0.85,
    macro_f1=0.84,
    log_loss=0.3,
    top5_accuracy=None,
    classes=(
        ClassReport(name="cat", n=20, precision=0.7, recall=0.8, f1=0.75),
        ClassReport(name="cow", n=0, precision=0.0, recall=0.0, f1=0.0),
    ),
    confusion=(),
    estimates=(
        Estimate(name="ece", value=0.04, low=None, high=None),
        Estimate(name="top_5", value=0.99, low=0.9, high=1.0),
    ),
    slices=(
        Slice(
            column="site",
            value="A",
            n=4,
            accuracy=0.75,
            low=None,
            high=None,
            balanced_accuracy=None,
            macro_f1=0.7,
            log_loss=0.4,
        ),
    ),
    curves=(
        Curve(
            name="cat",
            roc_auc=0.97,
            average_precision=0.93,
            false_positive_rate=(),
            true_positive_rate=(),
            recall=(),
            precision=(),
        ),
    ),
    rejection=Rejection(
        wanted_error=0.1,
        threshold=0.6,
        val_coverage=0.8,
        val_error=0.1,
        test_coverage=0.78,
        test_error=None,
    ),
    novelty=Novelty(
        threshold=-3, kept=0.95, test_flagged=0.06, noise_flagged=1.0, noise_auroc=0.999
    ),
    corruptions=(Corruption(name="fog", severity=3, accuracy=0.6, n=30),),
    speed=Speed(
        device="cpu",
        latency_p50_ms=3.0,
        latency_p95_ms=5.0,
        images_per_second=900.0,
        batch_size=64,
        size_mib=2.5,
        parameters=600_000,
        gflops=0.02,
    ),
    predictions=Path(),
    report=Path(),
    seconds=1.0,
    images_per_second=30.0,
)


def test_every_part_of_the_report_is_named_once():
    assert figures(REPORT) == {
        "accuracy": 0.9,
        "balanced_accuracy": 0.85,
        "macro_f1": 0.84,
        "log_loss": 0.3,
        "ece": 0.04,
        "top_5": 0.99,
        "precision[cat]": 0.7,
        "recall[cat]": 0.8,
        "f1[cat]": 0.75,
        "average_precision[cat]": 0.93,
        "roc_auc[cat]": 0.97,
        "accuracy[site=A]": 0.75,
        "macro_f1[site=A]": 0.7,
        "log_loss[site=A]": 0.4,
        "accuracy[fog:3]": 0.6,
        "test_coverage": 0.78,
        "test_flagged": 0.06,
        "noise_auroc": 0.999,
        "latency_p50_ms": 3.0,
        "latency_p95_ms": 5.0,
        "images_per_second": 900.0,
        "size_mib": 2.5,
        "parameters": 600_000.0,
        "gflops": 0.02,
    }


FOUND = {"accuracy": 0.9, "accuracy[site=A]": 0.75, "ece": 0.04, "brier": math.nan}


@pytest.mark.parametrize(
    ("floors", "limits", "held", "words"),
    [
        ({"accuracy": 0.9}, {}, True, "accuracy is 0.9, within its floor of 0.9."),
        ({"accuracy": 0.91}, {}, False, "accuracy is 0.9, below its floor of 0.91."),
        ({}, {"ece": 0.04}, True, "ece is 0.04, within its limit of 0.04."),
        ({}, {"ece": 0.03}, False, "ece is 0.04, above its limit of 0.03."),
        ({"accuracy[site=A]": 0.8}, {}, False, "accuracy[site=A] is 0.75, below its floor"),
        ({"accuracy[site=B]": 0.8}, {}, False, "no figure of the report: the nearest are accuracy"),
        ({}, {"size_mib": 9}, False, "size_mib, which has a limit, is no figure of the report"),
        ({"brier": 0.0}, {}, False, "brier is not a number, and has a floor of 0."),
        ({}, {"brier": 9.0}, False, "brier is not a number, and has a limit of 9."),
    ],
)
def test_bounds_are_held_or_say_what_is_wrong(floors, limits, held, words):
    (check,) = check_bounds(FOUND, floors, limits)
    assert check.held is held
    assert words in check.words


def test_the_nearest_name_is_suggested():
    (check,) = check_bounds(FOUND, {"accuracy[site=B]": 0.8}, {})
    assert "accuracy[site=A]" in check.words
