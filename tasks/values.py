"""What the rooms hand each other: frozen values of paths, digests and facts, never tensors.

RunConfig → RawDataset → PreparedDataset → Backbone → FineTunedModel → EvaluationReport →
PromotionDecision. Each survives ``Model.model_validate_json(value.model_dump_json())``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.config import Sha256, Triple

SplitName = Literal["train", "val", "test"]


class Value(BaseModel):
    """Common settings of every value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    index: Path  # CSV of tasks.index.ImageRecord
    classes: tuple[str, ...]  # sorted; position is the label
    counts: dict[str, int]  # images by declared split; "" where the source declares none
    ignored: tuple[str, ...]  # the first 20 files that are no images by name ...
    ignored_count: int  # ... and how many there are
    digest: Sha256  # over every record, contents included


class PackedSplit(Value):
    """One split, decoded: a raw uint8 file of shape (n, height, width, 3) in C order."""

    name: SplitName
    images: Path
    labels: Path  # int64 .npy of shape (n,)
    index: Path  # CSV of tasks.index.ImageRecord, same order
    n: int
    height: int  # px
    width: int  # px
    counts: tuple[int, ...]  # images of each class
    digest: Sha256  # over images and labels


class PreparedDataset(Value):
    """Three disjoint splits, packed for one InputSpec."""

    folder: Path
    classes: tuple[str, ...]
    input: InputSpec
    train: PackedSplit
    val: PackedSplit
    test: PackedSplit
    skipped: tuple[SkippedImage, ...]
    warnings: tuple[str, ...]
    raw_digest: Sha256
    digest: Sha256


class RegisteredModel(Value):
    """A version fetched from the registry, its files checked against their digest."""

    uri: str  # models:/NAME/VERSION, pinned
    name: str
    version: int
    architecture: str
    classes: tuple[str, ...]
    input: InputSpec
    weights: Path
    sha256: Sha256


class Backbone(Value):
    """A pretrained network: its weights on disk, checked, and how it is cut into stages."""

    architecture: str
    source: str  # what the user named
    weights: Path | None  # None: random weights
    sha256: Sha256 | None
    input: InputSpec
    head: str  # dotted name of the layer that is replaced
    keep_head: bool  # a warm start on the same classes goes on with its head
    stages: tuple[tuple[str, ...], ...]  # dotted module names of each stage, input first, no head
    parameters: int  # of the network with its original head


class FineTunedModel(Value):
    """What training left behind."""

    folder: Path  # the run folder
    weights: Path  # model.safetensors
    sha256: Sha256
    architecture: str
    classes: tuple[str, ...]
    input: InputSpec
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


class ClassReport(Value):
    """One class of the test set."""

    name: str
    n: int
    precision: float
    recall: float
    f1: float


class EvaluationReport(Value):
    """One model on one test set."""

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
    confusion: tuple[tuple[int, ...], ...]  # rows: truth, columns: prediction
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
    reason: str
    n: int
    accuracy: float
    alpha: float
    champion_version: int | None = None  # the champion it was compared with
    champion_accuracy: float | None = None
    wins: int | None = None  # images only the new version gets right
    losses: int | None = None  # images only the champion gets right
    p_value: float | None = None
