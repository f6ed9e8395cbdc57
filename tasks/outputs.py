"""From a network's outputs to probabilities and labels; evaluation and serving share these lines.

Only numpy and torch are needed, because this file also travels inside the served model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import softplus

THRESHOLD = 0.5  # multi-label: what is more probable than this is a label of the image


def probabilities(logits_bk: Tensor, multi_label: bool) -> Tensor:
    """Return float64 (b, k) on the CPU: the softmax, or with several labels each one's sigmoid.

    In float64, so that the softmax's rows sum to 1 in any precision.
    """
    exact_bk = logits_bk.cpu().double()
    return exact_bk.sigmoid() if multi_label else exact_bk.softmax(dim=1)


def energy(logits_bk: Tensor, multi_label: bool) -> Tensor:
    """Return float64 (b,) on the CPU, in nats: higher for an image less like those of training.

    -logsumexp of an image's logits (Liu et al. 2020, equation 4, at temperature 1), or with several
    labels minus the sum of their softplus (JointEnergy; Wang et al. 2021).
    """
    exact_bk = logits_bk.cpu().double()
    likeness_b = softplus(exact_bk).sum(dim=1) if multi_label else exact_bk.logsumexp(dim=1)
    return -likeness_b


def chosen(probabilities_nk: npt.NDArray[np.floating], multi_label: bool) -> npt.NDArray[np.int64]:
    """Return the most probable class of each row (n,), or 1 for every label it has, else 0 (n, k).

    On a tie the first class wins; a label at the threshold is none.
    """
    if multi_label:
        return (probabilities_nk > THRESHOLD).astype(np.int64)
    most_n: npt.NDArray[np.int64] = probabilities_nk.argmax(axis=1)
    return most_n


def confidence(
    probabilities_nk: npt.NDArray[np.floating], multi_label: bool
) -> npt.NDArray[np.floating]:
    """Return the probability (n,) that the network gives to its own choice.

    With several labels that is the product over them, as they are independent given the image:
    what binary cross-entropy supposes.
    """
    if not multi_label:
        most_n: npt.NDArray[np.floating] = probabilities_nk.max(axis=1, initial=0.0)
        return most_n
    product_n: npt.NDArray[np.floating] = np.maximum(probabilities_nk, 1 - probabilities_nk).prod(1)
    return product_n


def named(
    chosen_n: npt.NDArray[np.int64], classes: Sequence[str], separator: str | None
) -> list[str]:
    """Return the class of each row, or, given a ``separator``, its labels joined by it.

    Takes positions (n,), or with a separator 0 or 1 (n, k); an image without a label gives "".
    """
    if separator is None:
        return [classes[position] for position in chosen_n]
    return [separator.join(classes[int(k)] for k in np.flatnonzero(row)) for row in chosen_n]
