"""The loss of a recipe: cross entropy, or a binary one a label, weighted for skewed data."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from tasks.recipe import TrainingConfig
from tasks.values import PackedSplit, StreamedSplit


def build_loss(
    recipe: TrainingConfig,
    split: PackedSplit | StreamedSplit,
    multi_label: bool,
    device: torch.device,
) -> nn.Module:
    """Return a module of (logits (b, k), targets) that gives the mean loss, nats an image.

    With several labels an image that is ``MultiLabelLoss``, otherwise ``ClassLoss``. Their weights
    (``recipe.balance=class_weights``) follow from ``split.counts``.
    """
    weighted = recipe.balance == "class_weights"
    make = label_weights if multi_label else class_weights
    weights_k = make(split).to(device) if weighted else None
    return (MultiLabelLoss if multi_label else ClassLoss)(weights_k, recipe.label_smoothing)


def class_weights(split: PackedSplit | StreamedSplit) -> Tensor:
    """Return n / (k · n_c) of each class, float32 (classes,): scikit-learn's ``balanced``.

    k counts the classes that have images, so that the weights' mean over the images is 1 and a
    learning rate means what it did. A class without images gets 0: nothing draws towards it, the
    share of the smoothed label included.
    """
    counts = torch.tensor(split.counts, dtype=torch.float64)
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.clamp(min=1))
    return (weights * present).float()


def label_weights(split: PackedSplit | StreamedSplit) -> Tensor:
    """Return negatives / positives of each label, float32 (labels,): BCE's ``pos_weight``.

    A label that no image has, or every image, has no two sides to balance, and gets 1.
    """
    positives = torch.tensor(split.counts, dtype=torch.float64)
    negatives = split.n - positives
    both = (positives > 0) & (negatives > 0)
    return torch.where(both, negatives / positives.clamp(min=1), 1.0).float()


class ClassLoss(nn.Module):
    """Cross entropy with label smoothing (Szegedy et al. 2016, section 7), weighted by class.

    It is the sum over images and classes of -w_c · q_c · log p_c, divided by the number of
    images, q being the smoothed target. Unlike torch's weighted mean, which divides by the weights
    of the batch at hand, this adds up over batches and processes to the loss of all their images.
    """

    weights_k: Tensor | None

    def __init__(self, weights_k: Tensor | None, smoothing: float) -> None:
        super().__init__()
        self.register_buffer("weights_k", weights_k)
        self._smoothing = smoothing

    def forward(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss; targets are int64 (b,) or shares of the classes, float (b, k)."""
        total = F.cross_entropy(
            logits_bk.float(),
            targets,
            weight=self.weights_k,
            reduction="sum",
            label_smoothing=self._smoothing,
        )
        return total / len(logits_bk)


class MultiLabelLoss(nn.Module):
    """Binary cross entropy of each label, averaged over labels and images.

    Smoothing turns y into y (1 - ε) + ε / 2. With weights, an image that has a label counts as
    much for it as all that have not, over the training images.
    """

    weights_k: Tensor | None

    def __init__(self, weights_k: Tensor | None, smoothing: float) -> None:
        super().__init__()
        self.register_buffer("weights_k", weights_k)
        self._smoothing = smoothing

    def forward(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss; targets are 0 to 1, (b, k) of any type."""
        smoothed_bk = targets.float() * (1 - self._smoothing) + self._smoothing / 2
        return F.binary_cross_entropy_with_logits(
            logits_bk.float(), smoothed_bk, pos_weight=self.weights_k
        )
