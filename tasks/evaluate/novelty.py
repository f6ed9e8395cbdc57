"""Tell images unlike those of training by their energy (Liu et al. 2020; several labels: Wang)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tasks.evaluate.score import Scores, gather, scores_of
from tasks.measures import Novelty
from tasks.preprocess.batches import Batch, Labels
from tasks.preprocess.views import eval_view
from tasks.values import InputSpec

CHANCE = 0.5  # AUROC of a score that tells nothing

log = logging.getLogger(__name__)


def novelty(val: Scores, test: Scores, noise: Scores, kept: float = 0.95) -> Novelty:
    """Return the energy that a share ``kept`` of ``val`` does not exceed, and what is above it.

    Energies, in nats, are those of unscaled logits (temperature 1; Liu et al. 2020, equation 4).
    The threshold is the least energy of a validation image that will do. A network whose energies
    do not set noise apart from test images is logged. Raises ``ValueError`` where some scores are
    of one label an image and others of several.
    """
    if val.multi_label != test.multi_label:
        raise ValueError("energies of one label and of several cannot be compared")
    threshold = float(np.quantile(val.energy_n, kept, method="inverted_cdf"))
    return served_novelty(threshold, test, noise).model_copy(update={"kept": kept})


def served_novelty(threshold: float, test: Scores, noise: Scores) -> Novelty:
    """Return what is above the energy that a version is served with; raises as ``novelty``."""
    from sklearn.metrics import roc_auc_score

    if test.multi_label != noise.multi_label:
        raise ValueError("energies of one label and of several cannot be compared")
    energies = np.concatenate((test.energy_n, noise.energy_n))
    is_noise = np.repeat((0, 1), (len(test.energy_n), len(noise.energy_n)))
    auroc = float(roc_auc_score(is_noise, energies))
    if auroc <= CHANCE:
        log.warning(
            "the network's energy does not set noise apart from test images (AUROC %.2f): what it "
            "calls novel may be none, and what it does not may be",
            auroc,
        )
    return Novelty(
        threshold=threshold,
        kept=None,
        test_flagged=float(np.mean(test.energy_n > threshold)),
        noise_flagged=float(np.mean(noise.energy_n > threshold)),
        noise_auroc=auroc,
    )


def score_noise(
    network: nn.Module,
    spec: InputSpec,
    device: torch.device,
    batch_size: int,
    n: int,
    seed: int,
    multi_label: bool = False,
) -> Scores:
    """Score ``n`` images of uniform noise, uint8 of ``spec.crop`` px a side, in evaluation mode.

    They go through the evaluation view, as an image of that size would, and are the same for any
    ``batch_size``. What they show is nothing, so their labels are all 0.
    """
    start = time.perf_counter()
    network.eval()
    logits_nc = gather(
        lambda images_bhwc: network(eval_view(images_bhwc, spec)),
        _noise(spec.crop, device, batch_size, n, seed),
        device,
    )
    shape = logits_nc.shape if multi_label else logits_nc.shape[:1]
    return scores_of(logits_nc, np.zeros(shape, np.int64), time.perf_counter() - start)


def _noise(side: int, device: torch.device, batch_size: int, n: int, seed: int) -> Iterator[Batch]:
    draw = np.random.default_rng(seed)
    for first in range(0, n, batch_size):
        rows = range(first, min(first + batch_size, n))
        # one by one: a draw of several takes up other random bits than as many draws
        images = [draw.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in rows]
        labels_b: Labels = np.zeros(len(images), np.int64)
        yield torch.from_numpy(np.stack(images)).to(device), torch.from_numpy(labels_b)
