"""What a check of a registered model on new images found: frozen values, as those of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.config import Sha256
from tasks.values import ClassReport, Value


class ShiftTest(Value):
    """One two-sample test of new images against the reference."""

    name: Literal["kernel", "classifier"]
    statistic: float  # kernel: unbiased MMD^2; classifier: AUC, 0.5 where nothing tells them apart
    p_value: float
    level: float  # p must not exceed it
    bandwidth: float | None = None  # kernel only, in the features' own unit

    @property
    def rejected(self) -> bool:
        """Tell whether the test calls the new images different."""
        return self.p_value <= self.level


class ClassShare(Value):
    """How often the model chose a class: of several labels the shares add up to any number."""

    name: str
    reference: float
    new: float


class UnusualImage(Value):
    """A new image that is little like the reference."""

    path: str
    strangeness: float  # by the test with the smallest p-value; has meaning in comparison only
    prediction: str
    confidence: float


class WatchReport(Value):
    """What both kinds of check say."""

    name: str
    model: str  # models:/NAME/VERSION
    asked_for: str  # what the config names, such as models:/NAME@champion
    folder: Path
    run_id: str  # of MLflow
    experiment_id: str
    alert: bool
    reason: str
    found: int  # images in the source
    n: int  # images that were looked at and could be used
    copies: int  # left out: the same file again
    bad: int  # left out: not readable
    seen: int | None  # images the model learned from; None where that is not known
    images_digest: Sha256  # of those that were looked at
    alpha: float
    checks_a_day: float
    false_alarms_a_year: float  # to expect where nothing changes
    seconds: float


class DriftReport(WatchReport):
    """drift.json: whether new images look like those that the model was measured on."""

    reference_n: int
    reference_from: Literal["version", "base"]
    reference_digest: Sha256
    dimension: int  # of the features
    tests: tuple[ShiftTest, ...]
    permutations: int
    novel_above: float | None  # energy that the model calls novel, nats; None: it does not say
    novel_reference: float | None  # shares above it
    novel_new: float | None
    shares: tuple[ClassShare, ...]
    share_distance: float | None  # total variation between the shares; one label an image only
    unusual: tuple[UnusualImage, ...]


class ReevaluationReport(WatchReport):
    """reevaluation.json: whether the model is as accurate on new labelled images as it was.

    ``seen`` images are left out of all figures where they are known.
    """

    accuracy: float
    accuracy_low: float  # 95% Wilson interval
    accuracy_high: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    registered_accuracy: float
    registered_n: int
    margin: float
    difference: float  # accuracy now less that at registration
    difference_low: float  # Newcombe's interval at 1 - 2 alpha
    difference_high: float
    detectable: float  # loss that is told in 80% of cases with as many images
    classes: tuple[ClassReport, ...]
