"""How much accuracy is left when test images are noisy, blurred, faded or badly compressed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from tasks.evaluate.corruption_kinds import KINDS
from tasks.evaluate.score import score_batches
from tasks.measures import Corruption
from tasks.preprocess.batches import Batch, Order, PackedImages, read_ahead
from tasks.preprocess.views import fitted, normalize
from tasks.values import InputSpec, PackedSplit

SEVERITIES = (1, 3, 5)
NONE = "none"


def robustness(
    network: nn.Module,
    split: PackedSplit,
    spec: InputSpec,
    device: torch.device,
    batch_size: int,
    images: int,
    seed: int,
) -> tuple[Corruption, ...]:
    """Score the same ``images`` of a split under each kind of corruption (``corruption_kinds``).

    At most ``images`` are drawn by ``seed``, which the noise follows too, whatever the batch size
    and the device. The first row, called none at severity 0, is of these images as they are. What
    is corrupted is the picture that the network sees, as in ImageNet-C. With several labels an
    image, accuracy counts the images with all of them right.
    """
    network.eval()
    packed = PackedImages(split)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(split.n, min(images, split.n), replace=False)).astype(np.int64)

    def row(name: str, severity: int) -> Corruption:
        batches = _batches(packed, rows, spec, batch_size, device, _Corrupted(name, severity, seed))
        scores = score_batches(
            lambda images_bhwc: network(normalize(images_bhwc, spec)),
            batches,
            packed.labels_n[rows],
            device,
        )
        return Corruption(name=name, severity=severity, accuracy=scores.accuracy, n=len(rows))

    conditions = ((name, severity) for name in KINDS for severity in SEVERITIES)
    return tuple(row(name, severity) for name, severity in ((NONE, 0), *conditions))


class _Corrupted:
    """Corrupts images in order: each draws on in one stream of random numbers of its own."""

    def __init__(self, name: str, severity: int, seed: int) -> None:
        self._kind, self._severity = KINDS.get(name), severity
        self._random = torch.Generator().manual_seed(seed)

    def __call__(self, images_bhwc: Tensor) -> Tensor:
        if self._kind is None:
            return images_bhwc
        corrupted = [
            self._kind.corrupt(image_chw, self._severity, self._random)
            for image_chw in images_bhwc.permute(0, 3, 1, 2)
        ]
        return torch.stack(corrupted).permute(0, 2, 3, 1)


def _batches(
    packed: PackedImages,
    rows: Order,
    spec: InputSpec,
    batch_size: int,
    device: torch.device,
    corrupted: _Corrupted,
) -> Iterator[Batch]:
    """Yield what the network sees of ``rows``, corrupted in the thread that reads ahead."""

    def read(rows: Order, pin: bool) -> Batch:
        images_bhwc, labels_b = packed.read(rows, pin=False)
        images_bhwc = corrupted(fitted(images_bhwc, spec)).contiguous()
        return (images_bhwc.pin_memory() if pin else images_bhwc), labels_b

    return read_ahead(read, rows, batch_size, device)
