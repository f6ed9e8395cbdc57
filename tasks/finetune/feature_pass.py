"""One pass over the images through the frozen part, for the features that are cached."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tasks.finetune.at_once import AtOnce
from tasks.finetune.fuse import fused
from tasks.preprocess.augment import train_view
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.views import eval_view
from tasks.recipe import TrainingConfig
from tasks.values import InputSpec, PackedSplit

log = logging.getLogger(__name__)

View = Callable[[Tensor], Tensor]  # uint8 (b, h, w, 3) of a pack to what the network takes
_TOLERANCE = 1e-5  # of folded batch norm, relative to the largest feature
_EVERY = 10.0  # s between lines in the log


class FeaturePass:
    """A frozen part that is ready to run; enter it in evaluation mode."""

    def __init__(
        self, prefix: nn.Module, device: torch.device, precision: torch.dtype, batch_size: int
    ) -> None:
        self._prefix = prefix
        self._device = device
        self._precision = precision
        self._batch_size = batch_size
        self._chosen: nn.Module | None = None
        self._at_once = AtOnce()

    def over(self, split: PackedSplit, view: View, views: int) -> Iterator[Tensor]:
        """Yield the features of all images in order, ``views`` times, in the compute type."""
        packed = PackedImages(split)
        rows = np.arange(split.n, dtype=np.int64)
        total, done, told = views * split.n, 0, time.monotonic()
        for _ in range(views):
            for images_bhwc, _ in packed.batches(rows, self._batch_size, self._device):
                yield self._features(view(images_bhwc))
                done += len(images_bhwc)
                if time.monotonic() - told > _EVERY:
                    told = time.monotonic()
                    log.info("features: %s of %s %s images", f"{done:,}", f"{total:,}", split.name)

    def _features(self, images_bchw: Tensor) -> Tensor:
        with torch.inference_mode():
            if self._chosen is None:
                self._chosen = self._quickest(images_bchw)
            return self._run(self._chosen, images_bchw)

    def _run(self, prefix: nn.Module, images_bchw: Tensor) -> Tensor:
        return self._at_once.through(partial(self._pass, prefix), images_bchw, self._device)

    def _pass(self, prefix: nn.Module, images_bchw: Tensor) -> Tensor:
        enabled = self._precision != torch.float32
        with torch.autocast(self._device.type, dtype=self._precision, enabled=enabled):
            features: Tensor = prefix(images_bchw)
        return features.to(self._precision)

    def _quickest(self, images_bchw: Tensor) -> nn.Module:
        """Return the prefix, on a CPU with batch norm folded where that changes no number.

        Training on features must give what training on images does, so that more than rounding in
        float32 is not taken.
        """
        if self._device.type != "cpu" or (quick := fused(self._prefix)) is self._prefix:
            return self._prefix
        expected, found = (self._run(p, images_bchw).float() for p in (self._prefix, quick))
        change = (found - expected).abs().max().item()
        if change <= _TOLERANCE * max(1.0, expected.abs().max().item()):
            return quick
        log.debug("batch norm is not folded: it would change features by %.1e", change)
        return self._prefix


def training_view(spec: InputSpec, recipe: TrainingConfig, seed: int) -> View:
    """Return the augmentation of a recipe, drawn from ``seed``; the evaluation view without one."""
    if not recipe.augmented:
        return evaluation_view(spec)
    generator = torch.Generator().manual_seed(seed)
    return lambda images_bhwc: train_view(images_bhwc, spec, recipe, generator)


def evaluation_view(spec: InputSpec) -> View:
    """Return the view that validation and test see."""
    return lambda images_bhwc: eval_view(images_bhwc, spec)
