"""A model read back from its file, ready to score splits as it would be served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from tasks.artifacts import sha256_file
from tasks.config import RunConfig
from tasks.errors import EvaluationError
from tasks.evaluate.score import Scores, score
from tasks.finetune.device import (
    memory_errors,
    on_device,
    pick_device,
    scoring_batch,
    use_threads,
)
from tasks.finetune.fuse import fused
from tasks.pretrained.network import restore_network
from tasks.values import FineTunedModel, InputSpec, PackedSplit, RegisteredModel


@dataclass(frozen=True)
class Scorer:
    """A network in float32 on its device, and how images are put before it."""

    network: nn.Module
    spec: InputSpec
    device: torch.device
    batch_size: int

    def score(self, split: PackedSplit) -> Scores:
        """Score ``split``, which must be packed for ``spec``, with its logits as they are."""
        return score(self.network, split, self.spec, self.device, self.batch_size)


@contextmanager
def open_scorer(config: RunConfig, model: FineTunedModel | RegisteredModel) -> Iterator[Scorer]:
    """Read a model's weights back, check their digest, and yield what scores with them.

    A run's own model and a registered champion both go through here, so that the gate compares
    like with like. Raises ``EvaluationError`` when the file is missing or has another digest,
    ``ResourceError`` when memory runs out, in the block as well.
    """
    if not model.weights.is_file() or sha256_file(model.weights) != model.sha256:
        raise EvaluationError(
            f"{model.weights} is missing or is not the file that was written.\n"
            "Run again; if it happens twice, check the disk."
        )
    use_threads(config.training.threads)
    device = pick_device(config.training.device)
    batch_size = scoring_batch(config.evaluation.batch_size, device)
    with memory_errors(batch_size, "evaluation.batch_size"):
        network = restore_network(model.architecture, len(model.classes), model.weights)
        network = on_device(network, device)
        if device.type == "cpu":  # cuDNN gains little by it
            network = fused(network)
        yield Scorer(network.eval(), model.input, device, batch_size)
