"""The parts of an evaluation report and of the checks on the data: frozen values, no arithmetic."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Policy = Literal["fail", "warn", "drop"]
Declined = Literal["bound", "held_out"]


class Measure(BaseModel):
    """Common settings of every part."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataCheck(Measure):
    """One check of the data before training, and what was done about what it found."""

    name: str  # exact_duplicates, near_duplicates, conflicting_labels, group_leakage, ...
    policy: Policy
    status: Literal["ok", "warned", "dropped"]  # a failed check is an error, not a row
    found: int  # images, groups or classes, as ``unit`` says
    unit: str
    dropped: int = 0  # images left out because of it
    statistic: float | None = None  # of a test, class drift's total variation for example
    p_value: float | None = None
    examples: tuple[str, ...] = ()  # the first of what was found, in words


class Seen(Measure):
    """Test images that a model learned from or was chosen by, told by their files' digests."""

    images: int
    complete: bool  # all that it learned from is known; else there may be more


class Estimate(Measure):
    """A figure with its percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13)."""

    name: str  # accuracy, balanced_accuracy, macro_f1, micro_f1, log_loss, brier, ece, top_5 ...
    value: float
    low: float | None  # None where nothing was resampled
    high: float | None
    resamples: int | None = None  # that the interval is of


class Slice(Measure):
    """The images of the test set that share a value of one manifest column."""

    column: str
    value: str
    n: int
    accuracy: float
    low: float | None  # of the accuracy
    high: float | None
    balanced_accuracy: float | None  # None where no image has a label, as some of several may
    macro_f1: float | None
    log_loss: float
    estimates: tuple[Estimate, ...] = ()  # these figures with their intervals


class SlicesLeftOut(Measure):
    """The values of a manifest column that have no ``Slice``: only the commonest have one."""

    column: str
    values: int
    n: int  # images


class Curve(Measure):
    """ROC and precision-recall of one class against the others; None without both kinds."""

    name: str
    roc_auc: float | None
    average_precision: float | None
    false_positive_rate: tuple[float, ...]  # at most 101 points, thinned, ends kept
    true_positive_rate: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]


class ReliabilityBin(Measure):
    """Images, or labels of images, whose confidence falls into one of the equal-width bins."""

    low: float
    high: float
    n: int
    confidence: float | None  # mean; None in an empty bin
    accuracy: float | None


class Calibration(Measure):
    """Temperature scaling (Guo et al. 2017), chosen on validation alone."""

    temperature: float  # logits are divided by it
    declined: Declined | None = None  # why it is 1 although another was fitted:
    fitted: float | None = None  # that one, at a bound, or no better for images held out
    val_log_loss_before: float
    val_log_loss: float
    val_ece_before: float
    val_ece: float


class Rejection(Measure):
    """Answer only above a confidence, chosen on validation for an error rate (Geifman 2017).

    Of a registered version the threshold is the one that it is served with, chosen elsewhere.
    """

    wanted_error: float | None  # None, as what is of validation: of a registered version
    threshold: float  # confidence below which no answer is given
    val_coverage: float | None  # share of validation images that are answered
    val_error: float | None  # among them
    test_coverage: float
    test_error: float | None  # None where nothing is answered


class Novelty(Measure):
    """Energy score (Liu et al. 2020): -T logsumexp(logits / T), higher is less like training."""

    threshold: float  # energy that ``kept`` of the validation images stay below
    kept: float | None  # None of a registered version, whose threshold is the one served
    test_flagged: float  # share of test images above it
    noise_flagged: float  # share of as many images of uniform noise above it
    noise_auroc: float  # of telling test images from them


class Corruption(Measure):
    """Accuracy under one kind of corruption (after Hendrycks & Dietterich 2019)."""

    name: str
    severity: int  # 1 to 5; 0: the same images as they are, called none
    accuracy: float
    n: int


class Speed(Measure):
    """What one prediction costs on the machine that evaluated."""

    device: str
    latency_p50_ms: float  # one image, network only
    latency_p95_ms: float
    images_per_second: float  # in batches of ``batch_size``
    batch_size: int
    size_mib: float  # of the weights file
    parameters: int
    gflops: float  # multiply-adds of one image times two, over 1e9


class Machine(Measure):
    """The kind of machine that trained: numbers may round otherwise on another kind."""

    device: str  # the GPU and what it can do, or the processor and its instructions
    threads: int | None  # that compute; None on a GPU
    processes: int  # that share a training
    libraries: str  # torch, and on a GPU what it computes with


class Repeatability(Measure):
    """Whether the same config, data and code give the same weights on the same kind of machine."""

    machine: Machine
    reasons: tuple[str, ...] = ()  # what was not deterministic; nothing: the weights are the same

    @property
    def exact(self) -> bool:
        """Tell whether nothing was found that could give other weights."""
        return not self.reasons


class ExplainedImage(Measure):
    """A test image that the model is surely wrong about, and what it looked at."""

    path: str  # as the manifest names it
    label: str
    prediction: str
    confidence: float
    row: int  # in the test split
    image: str  # file name in the run folder's ``explained/``
    overlay: str | None  # the same with the heat map; None where no method fits the network
    method: str | None  # grad-cam or attention roll-out
