"""One training, from pretrained weights through its phases to the epoch that is kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tasks.errors import TrainingError
from tasks.finetune.averaging import Ema
from tasks.finetune.chosen import Chosen, State, copied
from tasks.finetune.compiling import Forward
from tasks.finetune.course import Course, Pace
from tasks.finetune.device import on_device
from tasks.finetune.feed import Feed, make_feed, tell_left_out
from tasks.finetune.inputs import Inputs, make_inputs
from tasks.finetune.loop import EpochSums, Trainer, train_epoch
from tasks.finetune.lora import add_lora, frozen_by_lora, merged_state
from tasks.finetune.objective import make_objective
from tasks.finetune.optimizer import build_optimizer
from tasks.finetune.penalty import L2SP
from tasks.finetune.phases import PROBE, Phase, check_warm_up, plan_phases
from tasks.finetune.progress import EpochRecord
from tasks.finetune.ranks import of_first, rank, world
from tasks.finetune.schedule import build_schedule
from tasks.finetune.strategy import FrozenPart
from tasks.pretrained.heads import is_under
from tasks.pretrained.network import build_network
from tasks.recipe import TrainingConfig

log = logging.getLogger(__name__)

Motion = tuple[Optimizer, LRScheduler]


@dataclass
class Training:
    """A network on its way; ``recipe`` is the job's, but for a soup's own learning rates."""

    course: Course
    recipe: TrainingConfig
    network: nn.Module
    frozen: FrozenPart
    ema: Ema | None
    penalty: L2SP | None
    orders: torch.Generator  # of the images; the same in every process
    views: torch.Generator  # of augmentation and mixing
    chosen: Chosen
    parameters: int  # scalars of the network, adapters not counted
    probed: State | None = None  # the weights after the head's own phase
    trainable: int = 0  # scalars that the last phases move

    def state(self) -> State:
        """Return a copy of the weights as they would be saved now."""
        network = self.ema.network if self.ema else self.network
        if self.course.config.strategy.kind == "lora":
            return merged_state(network)
        return copied(network.state_dict())


def train_once(course: Course, recipe: TrainingConfig, seed: int) -> Training:
    """Train through all phases; ``seed`` decides the order of images and their augmentation.

    Raises ``TrainingError`` when the loss is no longer finite.
    """
    training = start_training(course, recipe, seed)
    strategy = course.config.strategy
    motion: Motion | None = None
    phases = plan_phases(strategy, course.backbone, recipe.epochs)
    check_warm_up(phases, recipe)
    for number, phase in enumerate(phases, start=1):
        training.frozen.hold(phase.frozen)
        feed = make_feed(course, training.network, training.frozen, phase)
        inputs = make_inputs(feed.packed(0), recipe)
        if phase.fresh or motion is None:
            motion = build_motion(training, inputs, phase)
        _run_phase(training, feed, motion, phase, last=number == len(phases))
        if phase.name == PROBE:
            training.probed = training.state()
            if strategy.wise_ft is not None:
                training.chosen = Chosen(recipe.choose)  # of what follows alone
    return training


def start_training(course: Course, recipe: TrainingConfig, seed: int) -> Training:
    """Build the network with its pretrained weights, on its device, and nothing frozen yet."""
    config, strategy = course.config, course.config.strategy
    torch.manual_seed(seed + rank())  # dropout draws from the global generator
    network = build_network(course.backbone, len(course.prepared.classes), config.seed)
    parameters = sum(p.numel() for p in network.parameters())
    always: tuple[str, ...] = ()
    if strategy.lora_rank is not None:
        heads = course.backbone.heads
        network = add_lora(network, heads, strategy.lora_rank, strategy.lora_alpha)
        always = frozen_by_lora(network, heads)
    if world() > 1:
        network = _synchronised(course, network)
    network = on_device(network, course.device)
    return Training(
        course=course,
        recipe=recipe,
        network=network,
        frozen=FrozenPart(network, always),
        ema=None if strategy.ema_decay is None else Ema(network, strategy.ema_decay),
        penalty=_penalty(course, network),
        orders=torch.Generator().manual_seed(seed),
        views=torch.Generator().manual_seed(seed + rank() + 1),
        chosen=Chosen(recipe.choose),
        parameters=parameters,
    )


def _synchronised(course: Course, network: nn.Module) -> nn.Module:
    """Let batch norm count over all processes' images, as it would in one; GPUs alone can."""
    if course.device.type != "cuda":
        if any(isinstance(module, _BatchNorm) for module in network.modules()):
            course.note("batch norm counts over each process's own images: a CPU's cannot share")
        return network
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    return convert(network)


def _penalty(course: Course, network: nn.Module) -> L2SP | None:
    strategy = course.config.strategy
    if strategy.l2_sp is None:
        return None
    decay = course.config.training.weight_decay  # which the head goes on to have
    return L2SP(network, course.backbone.heads, strategy.l2_sp, decay)


def build_motion(training: Training, inputs: Inputs[Any], phase: Phase) -> Motion:
    """Return an optimiser of all that trains until the next fresh phase, and its schedule."""
    strategy, recipe = training.course.config.strategy, training.recipe
    if strategy.l2_sp is not None:  # its pull replaces the one towards zero
        recipe = recipe.model_copy(update={"weight_decay": 0.0})
    if recipe.optimizer == "muon" and phase.name == PROBE:  # a head has nothing for it
        recipe = recipe.model_copy(update={"optimizer": "adamw"})
    held = () if strategy.kind == "gradual_unfreeze" else phase.frozen

    def moves(name: str) -> bool:
        return training.frozen.can_train(name) and not is_under(name, held)

    optimizer = build_optimizer(
        training.network, recipe, training.course.backbone, strategy, trainable=moves
    )
    training.trainable = sum(p.numel() for n, p in training.network.named_parameters() if moves(n))
    an_epoch = inputs.steps_an_epoch
    return optimizer, build_schedule(optimizer, recipe, an_epoch * phase.schedule_epochs, an_epoch)


def _run_phase(training: Training, feed: Feed, motion: Motion, phase: Phase, last: bool) -> None:
    course, recipe = training.course, training.recipe
    trainer = build_trainer(training, feed, motion, phase)
    training.chosen.since = 0  # a phase has its own chance to get better
    for epoch in range(phase.epochs):
        start = time.perf_counter()
        rate = float(trainer.schedule.get_last_lr()[0])
        inputs = make_inputs(feed.packed(epoch), recipe)
        order = inputs.order(training.orders)
        pace = Pace(course, len(order), inputs.batches_an_epoch)
        number = len(course.records) + 1
        sums = train_epoch(trainer, inputs, order, number, pace.after_batch)
        if not course.records:  # said once
            tell_left_out(feed)
        validated = _validate(training, feed)
        record = _record(course, rate, sums, validated, time.perf_counter() - start)
        training.chosen.offer(training.state, record)
        course.add(record)
        if _is_stuck(training, last):
            break


def build_trainer(training: Training, feed: Feed, motion: Motion, phase: Phase) -> Trainer:
    """Put together what the steps of one phase need."""
    course, recipe = training.course, training.recipe
    model = feed.model
    if world() > 1:
        model = DistributedDataParallel(model)
    inputs = make_inputs(feed.packed(0), recipe)
    batches = inputs.batches_an_epoch * phase.epochs
    optimizer, schedule = motion
    return Trainer(
        network=training.network,
        forward=Forward(model, recipe, course.device, batches),
        frozen=training.frozen,
        optimizer=optimizer,
        schedule=schedule,
        objective=make_objective(
            course, training.penalty, training.views, on_features=feed.cached is not None
        ),
        ema=training.ema,
        recipe=recipe,
        device=course.device,
        precision=course.precision,
    )


def _validate(training: Training, feed: Feed) -> tuple[float, float]:
    """Return accuracy and log loss on the validation split; rank 0 finds them for all."""
    found = None
    if rank() == 0:
        scores = feed.validate(training.ema.network if training.ema else training.network)
        found = [scores.accuracy, scores.log_loss]
    accuracy, log_loss = of_first(found, training.course.device)
    if not math.isfinite(log_loss):  # the last step can break the weights unseen
        raise TrainingError(
            "The network's outputs are no longer finite numbers after an epoch.\n"
            f"Lower training.learning_rate (now {training.recipe.learning_rate:g})."
        )
    return accuracy, log_loss


def _is_stuck(training: Training, last: bool) -> bool:
    """Tell whether early stopping ends the training here; phases before the last are run whole."""
    patience = training.recipe.early_stopping
    if patience is None or not last:
        return False
    stuck = training.chosen.since >= patience
    if stuck:
        training.course.note(f"stopped early: {patience} epochs without a better one")
    return stuck


def _record(
    course: Course, rate: float, sums: EpochSums, validated: tuple[float, float], seconds: float
) -> EpochRecord:
    return EpochRecord(
        epoch=len(course.records) + 1,
        epochs=course.epochs,
        train_loss=sums.loss,
        train_accuracy=sums.accuracy,
        val_loss=validated[1],
        val_accuracy=validated[0],
        learning_rate=rate,
        seconds=seconds,
        images_per_second=sums.images / sums.seconds,
    )
