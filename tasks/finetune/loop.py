"""One epoch of training: the step, and what is counted without making the device wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tasks.errors import DivergedError, TrainingError
from tasks.finetune.averaging import Ema
from tasks.finetune.compiling import Forward
from tasks.finetune.device import free_memory, is_out_of_memory
from tasks.finetune.halving import Halving, Part
from tasks.finetune.inputs import Epoch, Inputs, Share
from tasks.finetune.lap import Lap
from tasks.finetune.objective import Hints, Objective
from tasks.finetune.ranks import summed, world
from tasks.finetune.strategy import FrozenPart
from tasks.preprocess.batches import Batch
from tasks.recipe import TrainingConfig

_CHECK_EVERY_STEPS = 50  # reading the loss makes a GPU wait, so only now and then
_STEPS_AHEAD = 2  # enough for a GPU never to wait


@dataclass
class Trainer:
    """Everything the training steps of one phase need."""

    network: nn.Module  # all of it
    forward: Forward  # of what is trained on: the network, or its part behind cached features
    frozen: FrozenPart
    optimizer: Optimizer
    schedule: LRScheduler
    objective: Objective
    halving: Halving
    ema: Ema | None
    recipe: TrainingConfig
    device: torch.device
    precision: torch.dtype

    def step(self, batch: Batch, share: Share) -> tuple[Tensor, Tensor]:
        """Learn from one batch; return summed loss and number right, both on the device.

        The gradient is of the mean over all images of the step, those of the other batches that
        ``training.accumulate`` joins and of the other processes included: each batch's mean counts
        by its share of the images. The optimiser moves at the last batch of a step. Where memory
        runs out in the network, the batch goes through it in parts (``Halving``).
        """
        with self._without_exchange(share):
            whole = Part(*self._prepared(batch), batch[1])
            learnt = self.halving.learn(whole, partial(self._learn, share))
        if share.last:
            self._move()
        return learnt

    def _prepared(self, batch: Batch) -> tuple[Tensor, Tensor, Hints]:
        """Make a batch ready; where memory runs out, once more without what is compiled.

        CUDA graphs keep memory of their own. The same random numbers are drawn again.
        """
        dice = self.objective.generator.get_state()
        try:
            return self.objective.prepare(batch)
        except (MemoryError, RuntimeError) as error:
            if not (is_out_of_memory(error) and self.halving.gives_up_compiled()):
                raise
        # the error is gone here, and with it what its frames held
        free_memory(self.device)
        self.objective.generator.set_state(dice)
        return self.objective.prepare(batch)

    def _learn(self, share: Share, part: Part) -> tuple[Tensor, Tensor]:
        """Add the gradients of a part of a batch, all of it but where memory is short."""
        enabled = self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision, enabled=enabled):
            logits_bk = self._forward(part.inputs)
            loss = self.objective.loss(logits_bk, part.targets, part.hints)
        total = loss * (share.weight * part.weight)
        if share.last and part.last and self.objective.penalty is not None:
            total = total + self.objective.penalty()
        torch.autograd.backward(total)
        right = self.objective.right(logits_bk.detach(), part.labels)
        return loss.detach() * len(part.labels), right

    def _move(self) -> None:
        if self.recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.network)

    def _without_exchange(self, share: Share) -> AbstractContextManager[None]:
        """Let processes exchange gradients once a step; DDP asks for it in the forward pass."""
        model = self.forward.model
        if isinstance(model, DistributedDataParallel) and not share.last:
            without: AbstractContextManager[None] = model.no_sync()
            return without
        return nullcontext()

    def _forward(self, inputs: Tensor) -> Tensor:
        try:
            logits_bk: Tensor = self.forward(inputs)
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
    inputs: Inputs[Epoch],
    order: Epoch,
    epoch: int,
    after_batch: Callable[[int, int, float], None],
    lap: Lap,
    after_step: Callable[[Lap], None],
) -> EpochSums:
    """Train on what of ``order`` is left after ``lap``, which keeps count.

    ``after_batch`` gets (batch from 1, images done, seconds); ``after_step`` is called between two
    moves of the optimiser, where ``lap`` and the trainer's parts are all there is of the epoch.
    Raises ``DivergedError`` when the loss is no longer finite.
    """
    start = time.perf_counter() - lap.seconds
    trainer.frozen.train_mode()
    trainer.forward.begin_epoch()
    queue = _Queue(trainer.device)
    every = 1 if trainer.device.type == "cpu" else _CHECK_EVERY_STEPS
    for batch, share in inputs.batches(order, trainer.device, lap.batches):
        loss, right = trainer.step(batch, share)
        queue.grow()
        lap.sums += torch.stack((loss.to(lap.sums.dtype), right.to(lap.sums.dtype)))
        lap.images += len(batch[1]) * world()
        lap.batches += 1
        if lap.batches % every == 0:
            _check_finite(lap.sums, epoch, lap.batches, trainer.recipe)
        lap.seconds = time.perf_counter() - start
        after_batch(lap.batches, lap.images, lap.seconds)
        if share.last and lap.images < len(order):
            after_step(lap)
    sums = summed(lap.sums)
    _check_finite(sums, epoch, lap.batches, trainer.recipe)
    return EpochSums(
        loss=sums[0].item() / len(order),
        accuracy=sums[1].item() / len(order),
        images=len(order),
        seconds=time.perf_counter() - start,
    )


class _Queue:
    """What a GPU was asked for and has not done yet: of a few steps, whose batches it holds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ends = deque[torch.cuda.Event]()

    def grow(self) -> None:
        """Note that a step was asked for, and wait until enough of those before are done."""
        if self._device.type != "cuda":
            return
        end = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # so in torch
        end.record(torch.cuda.current_stream(self._device))
        self._ends.append(end)
        if len(self._ends) > _STEPS_AHEAD:
            self._ends.popleft().synchronize()


def _check_finite(sums: Tensor, epoch: int, batch: int, recipe: TrainingConfig) -> None:
    if not torch.isfinite(sums[0]):
        raise DivergedError(
            f"The loss is no longer a finite number (epoch {epoch}, batch {batch}).\n"
            f"Lower training.learning_rate (now {recipe.learning_rate:g}) "
            "or set training.gradient_clip=1."
        )
