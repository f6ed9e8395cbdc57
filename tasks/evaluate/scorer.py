"""A model read back from its file, ready to score splits as it would be served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.artifacts import sha256_file
from tasks.config import RunConfig
from tasks.errors import EvaluationError
from tasks.evaluate.features import captured
from tasks.evaluate.score import Scores, score
from tasks.finetune.at_once import AtOnce
from tasks.finetune.device import (
    memory_errors,
    on_device,
    pages_kept_on,
    pick_device,
    scoring_batch,
    use_threads,
)
from tasks.finetune.fuse import fused
from tasks.pretrained.heads import find_heads
from tasks.pretrained.network import restore_network
from tasks.values import FineTunedModel, InputSpec, PackedSplit, RegisteredModel


@dataclass(frozen=True)
class Scorer:
    """A network in float32 on its device, and how images are put before it."""

    network: nn.Module
    spec: InputSpec
    device: torch.device
    batch_size: int
    parameters: int  # of the model, some of which are gone where ``network`` is fused
    head: str = ""  # the layer that gives the logits; "" where it is not known
    at_once: AtOnce = field(default_factory=AtOnce)  # images, where memory is short of a batch

    @property
    def fitting(self) -> int:
        """How many images are scored at once: ``batch_size``, or fewer where memory ran out."""
        return min(self.batch_size, self.at_once.images or self.batch_size)

    def score(self, split: PackedSplit) -> Scores:
        """Score ``split``, which must be packed for ``spec``, with its logits as they are."""
        most = min(self.batch_size, split.n)
        return self.at_once.fewer(partial(self._score, split), most, self.device)

    def score_with_features(
        self, split: PackedSplit, wanted_n: npt.NDArray[np.bool_]
    ) -> tuple[Scores, Tensor]:
        """Score ``split``, and return what the head is given of the images wanted, in order."""

        def run(size: int) -> tuple[Scores, Tensor]:
            with captured(self.network, self.head, wanted_n) as kept:
                scores = self._score(split, size)
            return scores, torch.cat(kept)

        return self.at_once.fewer(run, min(self.batch_size, split.n), self.device)

    def _score(self, split: PackedSplit, size: int) -> Scores:
        return score(self.network, split, self.spec, self.device, size)


@contextmanager
def open_scorer(config: RunConfig, model: FineTunedModel | RegisteredModel) -> Iterator[Scorer]:
    """Yield what scores with a model, as ``open_model`` does, on what ``config`` says."""
    settings = config.training
    with open_model(
        model, settings.device, settings.threads, config.evaluation.batch_size
    ) as scorer:
        yield scorer


@contextmanager
def open_model(
    model: FineTunedModel | RegisteredModel,
    device_name: str,
    threads: int | None,
    batch_size: int | Literal["auto"],
    key: str = "evaluation.batch_size",
) -> Iterator[Scorer]:
    """Read a model's weights back, check their digest, and yield what scores with them.

    A run's own model and a registered champion both go through here, so that the gate compares
    like with like. Raises ``EvaluationError`` when the file is missing or has another digest,
    ``ResourceError`` when memory runs out, in the block as well, which names the setting ``key``.
    """
    if not model.weights.is_file() or sha256_file(model.weights) != model.sha256:
        raise EvaluationError(
            f"{model.weights} is missing or is not the file that was written.\n"
            "Run again; if it happens twice, check the disk."
        )
    use_threads(threads)
    device = pick_device(device_name)
    at_once = scoring_batch(batch_size, device, model.input.crop)
    with memory_errors(at_once, key), pages_kept_on(device):
        network = restore_network(model.architecture, len(model.classes), model.weights)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        head = find_heads(network)[0]  # by its own names, before it is traced and fused
        network = on_device(network, device)
        if device.type == "cpu":  # cuDNN gains little by it
            network = fused(network)
        yield Scorer(network.eval(), model.input, device, at_once, parameters, head)
