"""Probabilities for every image of a split; validation, test and the gate all use this code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.preprocess.batches import Batch, PackedImages
from tasks.preprocess.views import eval_view
from tasks.values import InputSpec, PackedSplit


@dataclass(frozen=True)
class Scores:
    """What a network says of n images and c classes."""

    probabilities_nc: npt.NDArray[np.float32]
    labels_n: npt.NDArray[np.int64]
    predictions_n: npt.NDArray[np.int64]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is the true one."""
        return float(np.mean(self.predictions_n == self.labels_n))

    @property
    def log_loss(self) -> float:
        """Mean negative log-likelihood in nats; probabilities of 0 count as float32's smallest."""
        true_n = self.probabilities_nc[np.arange(len(self.labels_n)), self.labels_n]
        return float(-np.mean(np.log(np.maximum(true_n, np.finfo(np.float32).tiny))))


def score(
    network: nn.Module,
    split: PackedSplit,
    spec: InputSpec,
    device: torch.device,
    batch_size: int,
    precision: torch.dtype = torch.float32,
) -> Scores:
    """Score ``split`` in evaluation mode (batch norm fixed, dropout off), in its own order."""
    network.eval()
    packed = PackedImages(split)
    order = np.arange(split.n, dtype=np.int64)
    return score_batches(
        lambda images_bhwc: network(eval_view(images_bhwc, spec)),
        packed.batches(order, batch_size, device),
        packed.labels_n,
        device,
        precision,
    )


def score_batches(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    labels_n: npt.NDArray[np.int64],
    device: torch.device,
    precision: torch.dtype = torch.float32,
) -> Scores:
    """Score what ``forward`` makes of batches that hold every row once, in order.

    The softmax is taken in float64 on the CPU, so that its rows sum to 1 in any precision.
    """
    start = time.perf_counter()
    enabled = precision != torch.float32
    with torch.inference_mode(), torch.autocast(device.type, dtype=precision, enabled=enabled):
        logits = [forward(inputs).float() for inputs, _ in batches]
    probabilities_nc = torch.cat(logits).cpu().double().softmax(dim=1).float().numpy()
    return Scores(
        probabilities_nc=probabilities_nc,
        labels_n=labels_n,
        predictions_n=probabilities_nc.argmax(axis=1).astype(np.int64),
        seconds=time.perf_counter() - start,
    )
