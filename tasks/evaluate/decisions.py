"""What dividing logits by a temperature does to a network's decisions, a block of images at a time.

With several labels an image, each label of each image is a decision of its own between two
classes. Memory beside the scores is a few blocks, however many images and classes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import softplus

from tasks.evaluate.reliability import expected_calibration_error, reliability
from tasks.evaluate.score import Scores

BLOCK = 1 << 17  # probabilities of a block: 1 MB in float64, which a cache holds

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Sum = Callable[[Tensor, Tensor, float], Tensor]  # of logits and labels (b, c) at 1 / T, to (b,)


def log_losses(scores: Scores, temperature: float, rows: Rows) -> Floats:
    """Return the log loss of some images, in nats, summed over each one's decisions."""
    return _each(scores, temperature, rows, _loss_of_labels if scores.multi_label else _loss)


def slopes(scores: Scores, temperature: float, rows: Rows) -> Floats:
    """Return the derivative of each of ``log_losses`` by 1 / temperature, which never falls."""
    return _each(scores, temperature, rows, _slope_of_labels if scores.multi_label else _slope)


def sureness(scores: Scores, temperature: float, rows: Rows) -> Floats:
    """Return the confidence of each of some images' decisions, summed over them."""
    return _each(scores, temperature, rows, _sure_of_labels if scores.multi_label else _sure)


def divided(scores: Scores, temperature: float) -> npt.NDArray[np.float32]:
    """Return the probabilities (n, c) of logits that are divided by ``temperature``."""
    out_nc = np.empty(scores.probabilities_nc.shape, np.float32)
    for block in _blocks(scores, len(out_nc)):
        exact_bc = _logits(scores.probabilities_nc[block], scores.multi_label) / temperature
        p_bc = exact_bc.sigmoid() if scores.multi_label else exact_bc.softmax(dim=1)
        out_nc[block] = p_bc.float().numpy()
    return out_nc


def right_n(scores: Scores) -> npt.NDArray[np.int64]:
    """Return how many of each image's decisions are right (n,)."""
    right = np.equal(scores.predictions_n, scores.labels_n)
    counts: npt.NDArray[np.int64] = right.reshape(len(right), -1).sum(axis=1)
    return counts


def per_image(scores: Scores) -> int:
    """Return how many decisions an image is."""
    return scores.probabilities_nc.shape[1] if scores.multi_label else 1


def calibration_error(scores: Scores) -> float:
    """Return the expected calibration error over all decisions, as ``reliability`` bins them."""
    return expected_calibration_error(reliability(scores))


def _blocks(scores: Scores, n: int) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, scores.probabilities_nc.shape[1]))
    return (slice(start, start + step) for start in range(0, n, step))


def _each(scores: Scores, temperature: float, rows: Rows, what: Sum) -> Floats:
    out = np.empty(len(rows))
    for block in _blocks(scores, len(rows)):
        some = rows[block]
        logits_bc = _logits(scores.probabilities_nc[some], scores.multi_label)
        labels_b = torch.from_numpy(scores.labels_n[some])
        out[block] = what(logits_bc, labels_b, 1 / temperature).numpy()
    return out


def _logits(p_bc: npt.NDArray[np.float32], multi_label: bool) -> Tensor:
    """Return float64 (b, c): a label's logits, or a class's up to a constant of each image.

    What float32 rounds to 0 (or, of a label, to 1) counts as in ``Scores.log_loss``.
    """
    exact_bc = torch.from_numpy(p_bc).double()
    if multi_label:
        smallest = torch.finfo(torch.float32).eps
        return exact_bc.clamp_(smallest, 1 - smallest).logit_()
    return exact_bc.clamp_(min=torch.finfo(torch.float32).tiny).log_()


def _loss(logits_bc: Tensor, labels_b: Tensor, inverse: float) -> Tensor:
    logits_bc = logits_bc * inverse
    return logits_bc.logsumexp(dim=1) - logits_bc.gather(1, labels_b[:, None])[:, 0]


def _slope(logits_bc: Tensor, labels_b: Tensor, inverse: float) -> Tensor:
    expected_b = ((logits_bc * inverse).softmax(dim=1) * logits_bc).sum(dim=1)
    return expected_b - logits_bc.gather(1, labels_b[:, None])[:, 0]


def _sure(logits_bc: Tensor, _: Tensor, inverse: float) -> Tensor:
    return (logits_bc * inverse).softmax(dim=1).amax(dim=1)


def _loss_of_labels(logits_bc: Tensor, labels_bc: Tensor, inverse: float) -> Tensor:
    return softplus(_against(logits_bc, labels_bc) * inverse).sum(dim=1)


def _slope_of_labels(logits_bc: Tensor, labels_bc: Tensor, inverse: float) -> Tensor:
    against_bc = _against(logits_bc, labels_bc)
    return (against_bc * (against_bc * inverse).sigmoid()).sum(dim=1)


def _sure_of_labels(logits_bc: Tensor, _: Tensor, inverse: float) -> Tensor:
    return (logits_bc.abs() * inverse).sigmoid().sum(dim=1)


def _against(logits_bc: Tensor, labels_bc: Tensor) -> Tensor:
    """Return how much each decision's logit speaks against the truth."""
    return torch.where(labels_bc == 1, -logits_bc, logits_bc)
