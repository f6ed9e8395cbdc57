"""Backbones side by side: what each score says of them, and whether fine-tuning agrees."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tasks.config import RunConfig
from tasks.evaluate.features import head_inputs_of, sample_rows
from tasks.finetune.device import (
    memory_errors,
    on_device,
    pages_kept_over,
    pick_device,
    scoring_batch,
    use_threads,
)
from tasks.preprocess.batches import Batch, PackedImages
from tasks.preprocess.stream import StreamedImages
from tasks.pretrained.network import build_network
from tasks.pretrained.transferability import h_score, knn_accuracy, logme
from tasks.values import Backbone, PreparedDataset, StreamedSplit, Value

SCORES = ("logme", "h_score", "knn")

log = logging.getLogger(__name__)


class RankedBackbone(Value):
    """What the scores say of one backbone's features of the training images."""

    architecture: str
    weights: str  # as the user named them; "none" for random ones
    crop: int  # px, side of the images it saw
    dimension: int  # of the features
    images: int
    logme: float  # nats an image
    h_score: float  # 0 to classes - 1
    knn: float  # leave-one-out accuracy
    seconds: float  # for features and scores
    val_accuracy: float | None = None  # after fine-tuning, where that was asked for

    @property
    def label(self) -> str:
        """Return a name that is short and still tells the weights of one architecture apart."""
        weights = "random" if self.weights == "none" else Path(self.weights).name
        return f"{self.architecture} ({weights})"


class Agreement(Value):
    """How far a score's order is that of the validation accuracy after fine-tuning.

    Both are None where one of the two is the same for all.
    """

    score: str
    kendall: float | None  # tau-b
    spearman: float | None


class Ranking(Value):
    """Backbones for one data set, the one with the highest LogME first."""

    name: str
    folder: Path
    classes: int
    neighbours: int
    backbones: tuple[RankedBackbone, ...]
    agreements: tuple[Agreement, ...]  # none without fine-tuning

    def ranks(self, score: str) -> list[int]:
        """Return each backbone's place by one score, from 1; equal ones share the better place."""
        values = [getattr(row, score) for row in self.backbones]
        return [1 + sum(other > value for other in values) for value in values]


def score_backbone(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    images: int | None,
    neighbours: int,
) -> RankedBackbone:
    """Score one backbone on the training split; neither validation nor test is opened.

    At most ``images`` images are used, the same share of each class; of a stream the first ones in
    the order of ``config.seed``. Raises ``ResourceError`` when memory runs out and
    ``EvaluationError`` for features that are no finite numbers.
    """
    start = time.perf_counter()
    features_nd, labels_n = _features(config, prepared, backbone, images)
    return RankedBackbone(
        architecture=backbone.architecture,
        weights=config.model.weights or "none",
        crop=prepared.input.crop,
        dimension=features_nd.shape[1],
        images=len(labels_n),
        logme=logme(features_nd, labels_n),
        h_score=h_score(features_nd, labels_n),
        knn=knn_accuracy(features_nd, labels_n, neighbours),
        seconds=time.perf_counter() - start,
    )


def _features(
    config: RunConfig, prepared: PreparedDataset, backbone: Backbone, images: int | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return what the head of a backbone would get (n, d), and the labels (n,)."""
    use_threads(config.training.threads)
    device = pick_device(config.training.device)
    size = scoring_batch(config.evaluation.batch_size, device, prepared.input.crop)
    labels: list[npt.NDArray[np.int64]] = []

    def noted() -> Iterator[Batch]:
        for batch in _batches(config, prepared, images, size, device):
            labels.append(batch[1].cpu().numpy().astype(np.int64))
            yield batch

    kept = pages_kept_over(prepared.train, device)
    with memory_errors(size, "base.evaluation.batch_size"), kept:
        network = build_network(backbone, len(prepared.classes), config.seed)
        network = on_device(network, device)
        features_nd = head_inputs_of(network, backbone.head, noted(), prepared.input)
    return features_nd, np.concatenate(labels)


def _batches(
    config: RunConfig,
    prepared: PreparedDataset,
    images: int | None,
    size: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield the sample of the training images: by class, or of a stream its first ones."""
    if isinstance(prepared.train, StreamedSplit):
        stream = StreamedImages(prepared.train, prepared.input, config.data)
        generator = torch.Generator().manual_seed(config.seed)
        return stream.first(images or prepared.train.n, size, generator, device)
    packed = PackedImages(prepared.train)
    return packed.batches(sample_rows(packed.labels_n, images, config.seed), size, device)


def in_order(backbones: Sequence[RankedBackbone]) -> tuple[RankedBackbone, ...]:
    """Return the backbones by LogME, the highest first; equal ones stay in their order."""
    return tuple(sorted(backbones, key=lambda row: -row.logme))


def agreements(backbones: Sequence[RankedBackbone]) -> tuple[Agreement, ...]:
    """Return Kendall's tau-b and Spearman's rho of each score with the validation accuracy.

    Nothing where a backbone was not fine-tuned.
    """
    if any(row.val_accuracy is None for row in backbones):
        return ()
    reached = [row.val_accuracy for row in backbones]
    return tuple(
        _agreement(name, [getattr(row, name) for row in backbones], reached) for name in SCORES
    )


def _agreement(name: str, scores: Sequence[float], reached: Sequence[float | None]) -> Agreement:
    from scipy.stats import kendalltau, spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input, whose NaN becomes None below
        kendall, spearman = (
            kendalltau(scores, reached).statistic,
            spearmanr(scores, reached).statistic,
        )
    return Agreement(score=name, kendall=_known(kendall), spearman=_known(spearman))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
