"""What the rooms hand each other: frozen values of paths, digests and facts, never tensors.

RunConfig → RawDataset → PreparedDataset → Backbone → FineTunedModel → EvaluationReport →
PromotionDecision. Each survives ``Model.model_validate_json(value.model_dump_json())``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from tasks import measures
from tasks.config import Sha256, Triple
from tasks.splitvalues import PackedSplit as PackedSplit
from tasks.splitvalues import SplitName as SplitName
from tasks.splitvalues import StreamedSplit as StreamedSplit
from tasks.splitvalues import Value as Value


class InputSpec(Value):
    """How a network wants its images: resize the short side, crop the centre, normalise."""

    resize: int  # px, short side
    crop: int  # px, side of the square the network sees
    mean: Triple  # RGB, on the scale 0 to 1
    std: Triple
    interpolation: Literal["nearest", "bilinear", "bicubic"]


class SkippedImage(Value):
    """An image left out by policy, and why."""

    path: str
    reason: str


class RawDataset(Value):
    """Image files on disk with their labels; nothing decoded yet."""

    kind: str
    root: Path  # the folder that the index's relative paths start at
    index: Path  # CSV of tasks.index.ImageRecord; of shards: validation and test alone
    shards: Path | None = None  # of shards: JSON of tasks.splitvalues.ShardIndex
    classes: tuple[str, ...]  # sorted; position is the label
    multi_label: bool = False  # an image has any number of labels, perhaps none
    counts: dict[str, int]  # images by declared split; "" where the source declares none
    ignored: tuple[str, ...]  # the first 20 files that are no images by name ...
    ignored_count: int  # ... and how many there are
    digest: Sha256  # over every record, contents included


class PreparedDataset(Value):
    """Three disjoint splits, packed for one InputSpec; of shards, training images are streamed."""

    folder: Path
    classes: tuple[str, ...]
    input: InputSpec
    train: PackedSplit | StreamedSplit
    val: PackedSplit
    test: PackedSplit
    skipped: tuple[SkippedImage, ...]
    warnings: tuple[str, ...]
    checks: tuple[measures.DataCheck, ...] = ()
    raw_digest: Sha256
    digest: Sha256

    @property
    def multi_label(self) -> bool:
        """Tell whether an image has any number of labels, rather than one."""
        return self.train.multi_label


class Certainty(Value):
    """How sure a served model is, when it gives no answer, and what it calls novel."""

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)  # logits are divided by it
    reject_below: float | None = Field(None, allow_inf_nan=False)  # confidence; None: it answers
    novel_above: float | None = Field(None, allow_inf_nan=False)  # energy; None: it does not say


class RegisteredModel(Certainty):
    """A version fetched from the registry, its files checked against their digest."""

    uri: str  # models:/NAME/VERSION, pinned
    name: str
    version: int
    architecture: str
    classes: tuple[str, ...]
    input: InputSpec
    weights: Path
    sha256: Sha256
    multi_label: bool = False
    label_separator: str = "|"  # between the labels of one image; multi-label only


class Backbone(Value):
    """A pretrained network: its weights on disk, checked, and how it is cut into stages."""

    architecture: str
    source: str  # what the user named
    weights: Path | None  # None: random weights
    sha256: Sha256 | None
    input: InputSpec
    head: str  # dotted name of the layer that is replaced
    other_heads: tuple[str, ...] = ()  # of a distilled network of timm's, replaced as well
    keep_head: bool  # a warm start on the same classes goes on with its head
    stages: tuple[tuple[str, ...], ...]  # dotted module names of each stage, input first, no head
    parameters: int  # of the network with its original head

    @property
    def heads(self) -> tuple[str, ...]:
        """Return every layer that is replaced, whose names ``stages`` leaves out."""
        return (self.head, *self.other_heads)


class FineTunedModel(Value):
    """What training left behind."""

    folder: Path  # the run folder
    weights: Path  # model.safetensors
    sha256: Sha256
    architecture: str
    classes: tuple[str, ...]
    input: InputSpec
    multi_label: bool = False
    strategy: str
    history: Path  # history.jsonl, a line an epoch
    epochs: int
    chosen_epoch: int  # from 1
    val_accuracy: float
    val_loss: float
    trainable_parameters: int
    parameters: int
    device: str
    precision: str
    seconds: float
    images_per_second: float
    data_digest: Sha256
    backbone_sha256: Sha256 | None
    teacher_sha256: Sha256 | None = None  # of a distillation's teacher
    notes: tuple[str, ...] = ()  # what training decided on its way
    repeatable: measures.Repeatability | None = None  # None: of a graft that did not say


class ClassReport(Value):
    """One class of the test set."""

    name: str
    n: int
    precision: float
    recall: float
    f1: float
    average_precision: float | None = None  # multi-label only; also None without an image


class EvaluationReport(Value):
    """One model on one test set.

    With several labels an image, ``accuracy`` and its interval count the images with all labels
    right, balanced accuracy is the mean over classes of that of present against absent, and there
    is no confusion matrix but a row a class in ``class_confusion``. With very many classes, whose
    matrix would take gigabytes, it is in ``confused`` as what it has besides zeros.
    """

    folder: Path
    model_sha256: Sha256
    test_digest: Sha256
    n: int
    accuracy: float
    accuracy_low: float  # 95% Wilson interval
    accuracy_high: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    top5_accuracy: float | None  # None with five classes or fewer
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows: truth, columns: prediction; empty: see above
    confused: tuple[tuple[int, int, int], ...] = ()  # truth, prediction, images; in that order
    multi_label: bool = False  # what follows is None without it
    mean_average_precision: float | None = None  # over the classes with an image
    micro_f1: float | None = None
    hamming_loss: float | None = None  # share of all labels that are wrong
    class_confusion: tuple[tuple[int, int, int, int], ...] | None = None  # TN, FP, FN, TP
    estimates: tuple[measures.Estimate, ...] = ()  # every figure with its interval
    slices: tuple[measures.Slice, ...] = ()
    slices_left_out: tuple[measures.SlicesLeftOut, ...] = ()  # a row a column that has any
    curves: tuple[measures.Curve, ...] = ()
    reliability: tuple[measures.ReliabilityBin, ...] = ()  # calibrated
    calibration: measures.Calibration | None = None
    rejection: measures.Rejection | None = None
    novelty: measures.Novelty | None = None
    corruptions: tuple[measures.Corruption, ...] = ()
    speed: measures.Speed | None = None
    explained: tuple[measures.ExplainedImage, ...] = ()
    seen: measures.Seen | None = None  # None: it was not looked up
    repeatable: measures.Repeatability | None = None  # of the training; None: not of a new model
    reference: Sha256 | None = None  # digest of reference.safetensors in ``folder``
    predictions: Path  # predictions.parquet, a row an image
    report: Path  # report.json
    seconds: float
    images_per_second: float


class PromotionDecision(Value):
    """Whether the new version became champion, and the numbers that decided it."""

    model: str
    version: int
    uri: str
    run_id: str
    promoted: bool
    waiting: bool = False  # the gate would promote it, and a person has to agree
    reason: str
    n: int
    accuracy: float
    alpha: float
    rule: str = "superiority"
    metric: str = "accuracy"
    margin: float | None = None  # non_inferiority only
    test_digest: Sha256 | None = None  # of the images that decided
    reasons: tuple[str, ...] = ()  # ``reason`` one by one; where refused, the refusals first
    checks: tuple[str, ...] = ()  # every floor and limit, held or not
    champion_version: int | None = None  # the champion it was compared with
    champion_accuracy: float | None = None
    value: float | None = None  # of ``metric``
    champion_value: float | None = None
    difference: float | None = None  # above 0 is better, also where the metric is a loss
    difference_low: float | None = None  # its interval at 1 - alpha
    difference_high: float | None = None
    detectable: float | None = None  # smallest true difference shown in 80% of cases
    wins: int | None = None  # images only the new version gets right
    losses: int | None = None  # images only the champion gets right
    p_value: float | None = None
    level: float | None = None  # the p-value must be under it
