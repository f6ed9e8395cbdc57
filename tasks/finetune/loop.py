"""One epoch of training: the step, and what is counted without making the device wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tasks.config import TrainingConfig
from tasks.errors import TrainingError
from tasks.finetune.strategy import FrozenPart
from tasks.preprocess.batches import Batch, Order, PackedImages
from tasks.preprocess.views import train_view
from tasks.values import InputSpec

_CHECK_EVERY_STEPS = 50  # reading the loss makes a GPU wait, so only now and then


@dataclass
class Trainer:
    """Everything one training step needs; one instance serves all epochs."""

    network: nn.Module
    frozen: FrozenPart
    optimizer: Optimizer
    schedule: LRScheduler
    recipe: TrainingConfig
    spec: InputSpec
    device: torch.device
    precision: torch.dtype
    generator: torch.Generator  # CPU; drives shuffling and augmentation

    def __post_init__(self) -> None:
        """Make the loss once."""
        self._loss = nn.CrossEntropyLoss(label_smoothing=self.recipe.label_smoothing)

    def step(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one optimiser step; return summed loss and number right, both on the device."""
        images_bhwc, labels_b = batch
        images_bchw = train_view(images_bhwc, self.spec, self.recipe.augment, self.generator)
        enabled = self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision, enabled=enabled):
            logits_bk = self._forward(images_bchw)
            loss = self._loss(logits_bk, labels_b)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        right = (logits_bk.detach().argmax(dim=1) == labels_b).sum()
        return loss.detach() * len(labels_b), right

    def _forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        try:
            logits_bk: torch.Tensor = self.network(images_bchw)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # batch norm's own words
                raise
            raise TrainingError(
                f"training.batch_size={self.recipe.batch_size} leaves this network's batch norm "
                "one value a channel.\nSet training.batch_size=2 or more."
            ) from error
        return logits_bk


@dataclass(frozen=True)
class EpochSums:
    """Means over one epoch's images, and its wall time."""

    loss: float
    accuracy: float
    images: int
    seconds: float


def train_epoch(
    trainer: Trainer,
    packed: PackedImages,
    order: Order,
    epoch: int,
    after_step: Callable[[int, int, float], None],
) -> EpochSums:
    """Train on ``order`` once; ``after_step`` gets (step from 1, images done, seconds).

    Raises ``TrainingError`` when the loss is no longer finite.
    """
    start = time.perf_counter()
    trainer.frozen.train_mode()
    loss_sum = torch.zeros((), device=trainer.device)
    right_sum = torch.zeros((), device=trainer.device, dtype=torch.int64)
    every = 1 if trainer.device.type == "cpu" else _CHECK_EVERY_STEPS
    done = 0
    batches = packed.batches(order, trainer.recipe.batch_size, trainer.device)
    for step, batch in enumerate(batches, start=1):
        loss, right = trainer.step(batch)
        loss_sum += loss
        right_sum += right
        done += len(batch[1])
        if step % every == 0:
            _check_finite(loss_sum, epoch, step, trainer.recipe)
        after_step(step, done, time.perf_counter() - start)
    _check_finite(loss_sum, epoch, -(-len(order) // trainer.recipe.batch_size), trainer.recipe)
    return EpochSums(
        loss=loss_sum.item() / done,
        accuracy=right_sum.item() / done,
        images=done,
        seconds=time.perf_counter() - start,
    )


def _check_finite(loss_sum: torch.Tensor, epoch: int, step: int, recipe: TrainingConfig) -> None:
    if not torch.isfinite(loss_sum):
        raise TrainingError(
            f"The loss is no longer a finite number (epoch {epoch}, step {step}).\n"
            f"Lower training.learning_rate (now {recipe.learning_rate:g}) "
            "or set training.gradient_clip=1."
        )
