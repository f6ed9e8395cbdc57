"""How many images go through a network at a time: fewer, where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from tasks.errors import ResourceError
from tasks.finetune.device import free_memory, is_out_of_memory

log = logging.getLogger(__name__)

Found = TypeVar("Found")


@dataclass
class AtOnce:
    """The most images that were seen to fit; what was found once stays."""

    images: int | None = None  # None: memory has not run out

    def fewer(self, run: Callable[[int], Found], most: int, device: torch.device) -> Found:
        """Return ``run(n)`` of n images at a time: ``most``, or half as many where they do not fit.

        For what takes each image for itself, so that n changes no more than rounding: a network in
        evaluation mode. ``run`` is begun anew, so let it keep nothing from a call that failed.
        Raises ``ResourceError`` where not even one image fits.
        """
        size = first = min(most, self.images or most)
        while True:
            try:
                found = run(size)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise ResourceError(
                        "Memory ran out with one image at a time, without gradients.\n"
                        "Take a smaller model.architecture or preprocess.crop."
                    ) from error
            size = -(-size // 2)  # the error is gone here, and what its frames held
            free_memory(device)
        if size < first:
            self.images = size
            log.info("memory ran out with %d images at once: from here on %d are", first, size)
        return found

    def through(
        self, forward: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device
    ) -> Tensor:
        """Return ``forward(inputs)``, row by row the same; in parts, as ``fewer``."""

        def run(size: int) -> Tensor:
            if size >= len(inputs):
                return forward(inputs)
            return torch.cat([forward(part) for part in torch.split(inputs, size)])

        return self.fewer(run, len(inputs), device)
