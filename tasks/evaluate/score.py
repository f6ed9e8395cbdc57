"""Probabilities for every image of a split; validation, test and the gate all use this code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.outputs import chosen, energy, probabilities
from tasks.preprocess.batches import Batch, Labels, PackedImages
from tasks.preprocess.views import eval_view
from tasks.values import InputSpec, PackedSplit


@dataclass(frozen=True)
class Scores:
    """What a network says of n images and c classes.

    With several labels an image, labels and predictions are 0 or 1 of shape (n, c). The energy is
    that of ``tasks.outputs.energy``, of the logits as they are: no temperature divides them.
    """

    probabilities_nc: npt.NDArray[np.float32]
    labels_n: npt.NDArray[np.int64]
    predictions_n: npt.NDArray[np.int64]
    seconds: float
    energy_n: npt.NDArray[np.float64]
    multi_label: bool = False

    @property
    def correct_n(self) -> npt.NDArray[np.bool_]:
        """Whether each image's class, or every one of its labels, is right."""
        right = np.equal(self.predictions_n, self.labels_n)
        right_n: npt.NDArray[np.bool_] = np.all(right, axis=1) if self.multi_label else right
        return right_n

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is the true one, or whose labels all are."""
        return float(np.mean(self.correct_n))

    @property
    def log_losses_n(self) -> npt.NDArray[np.float64]:
        """Negative log-likelihood of each image in nats; 0 counts as float32's smallest.

        With several labels, the mean over labels of the binary cross-entropy, where probabilities
        keep float32's epsilon from 0 and 1, as in scikit-learn's ``log_loss``.
        """
        if self.multi_label:
            return self._binary_log_losses_n()
        true_n = self.probabilities_nc[np.arange(len(self.labels_n)), self.labels_n]
        return -np.log(np.maximum(true_n, np.finfo(np.float32).tiny).astype(np.float64))

    def _binary_log_losses_n(self) -> npt.NDArray[np.float64]:
        given_nc = self.probabilities_nc.astype(np.float64)
        true_nc = np.where(self.labels_n == 1, given_nc, 1 - given_nc)
        smallest = float(np.finfo(np.float32).eps)
        losses_n: npt.NDArray[np.float64] = np.log(np.clip(true_nc, smallest, 1 - smallest)).mean(1)
        return -losses_n

    @property
    def log_loss(self) -> float:
        """Mean of ``log_losses_n``."""
        return float(np.mean(self.log_losses_n))


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
    labels_n: Labels,
    device: torch.device,
    precision: torch.dtype = torch.float32,
) -> Scores:
    """Score what ``forward`` makes of batches that hold every row once, in order.

    Labels of shape (n,) are classes; of shape (n, c) they are 0 and 1, several an image.
    """
    start = time.perf_counter()
    logits_nc = gather(forward, batches, device, precision)
    return scores_of(logits_nc, labels_n, time.perf_counter() - start)


def gather(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Return the logits, float32 (n, c) on the CPU, of every row of ``batches`` in turn."""
    enabled = precision != torch.float32
    with torch.inference_mode(), torch.autocast(device.type, dtype=precision, enabled=enabled):
        return torch.cat([forward(inputs).float() for inputs, _ in batches]).cpu()


def scores_of(logits_nc: Tensor, labels_n: Labels, seconds: float) -> Scores:
    """Return what logits (n, c) say: of classes for labels (n,), of several labels for (n, c)."""
    multi_label = labels_n.ndim > 1
    exact_nc = logits_nc.double()
    probabilities_nc = probabilities(exact_nc, multi_label).float().numpy()
    return Scores(
        probabilities_nc=probabilities_nc,
        labels_n=labels_n.astype(np.int64),
        predictions_n=chosen(probabilities_nc, multi_label),
        seconds=seconds,
        energy_n=energy(exact_nc, multi_label).numpy(),
        multi_label=multi_label,
    )
