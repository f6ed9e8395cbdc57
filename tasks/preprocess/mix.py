"""Mixup and cutmix: images of a batch mixed with their neighbours, and labels with them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from tasks.recipe import TrainingConfig


class Mix:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), as torchvision does them.

    With both, one is drawn for each batch with probability 1/2.
    """

    def __init__(self, recipe: TrainingConfig, classes: int) -> None:
        transforms: list[v2.Transform] = []
        if recipe.mixup > 0:
            transforms.append(v2.MixUp(alpha=recipe.mixup, num_classes=classes))
        if recipe.cutmix > 0:
            transforms.append(v2.CutMix(alpha=recipe.cutmix, num_classes=classes))
        self._transform = v2.RandomChoice(transforms) if transforms else None

    @property
    def on(self) -> bool:
        """Tell whether the recipe mixes at all."""
        return self._transform is not None

    def __call__(
        self, images_bchw: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix float (b, 3, h, w) and the labels by one share for the whole batch.

        Labels are int64 (b,) or, with several an image, (b, classes); they come back as float
        (b, classes). Images come back channels_last. Without mixup and cutmix both come back as
        they are. The share and the box follow from ``generator``; no call waits for the device.
        """
        if self._transform is None:
            return images_bchw, labels
        seed = int(torch.randint(2**62, (), generator=generator))
        # torchvision draws from torch's own CPU generator; its state is put back afterwards
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            images_bchw, labels = self._transform(images_bchw, labels)
        return images_bchw.contiguous(memory_format=torch.channels_last), labels
