"""One training, from pretrained weights through its phases to the epoch that is kept."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tasks.errors import DivergedError
from tasks.finetune.checkpoint import restore_motion, restore_weights, snapshot
from tasks.finetune.chosen import Chosen
from tasks.finetune.compiling import Forward
from tasks.finetune.course import Course, Pace
from tasks.finetune.feed import Feed, make_feed, tell_left_out
from tasks.finetune.halving import Halving
from tasks.finetune.inputs import Inputs, make_inputs
from tasks.finetune.lap import Lap, begin_lap
from tasks.finetune.loop import EpochSums, Trainer, train_epoch
from tasks.finetune.objective import make_objective
from tasks.finetune.optimizer import build_optimizer
from tasks.finetune.phases import PROBE, Phase, check_warm_up, plan_phases
from tasks.finetune.progress import EpochRecord
from tasks.finetune.ranks import of_first, rank, world
from tasks.finetune.saving import Saving
from tasks.finetune.schedule import build_schedule
from tasks.finetune.start import Training, start_training
from tasks.finetune.tree_file import Tree
from tasks.pretrained.heads import is_under
from tasks.recipe import TrainingConfig

log = logging.getLogger(__name__)

Motion = tuple[Optimizer, LRScheduler]


@dataclass(frozen=True)
class Stage:
    """A phase, what it trains on and what moves its weights."""

    feed: Feed
    motion: Motion
    phase: Phase
    number: int  # from 1
    last: bool


def train_once(course: Course, recipe: TrainingConfig, seed: int) -> Training:
    """Train through all phases; ``seed`` decides the order of images and their augmentation.

    Goes on at ``course.point``, where there is one. Raises ``DivergedError`` when the loss is no
    longer finite.
    """
    training = start_training(course, recipe, seed)
    phases = plan_phases(course.config.strategy, course.backbone, recipe.epochs)
    train_phases(training, phases, len(phases))
    return training


def train_phases(training: Training, phases: tuple[Phase, ...], n: int) -> None:
    """Train the first ``n`` of a training's ``phases``; as ``train_once``."""
    course, recipe = training.course, training.recipe
    motion: Motion | None = None
    check_warm_up(phases, recipe)
    point, course.point = course.point, None
    if point is not None:
        restore_weights(training, point)
    first = 1 if point is None else point["phase"]
    for number, phase in enumerate(phases[first - 1 : n], start=first):
        training.frozen.hold(phase.frozen)
        feed = make_feed(training, phase)
        inputs = make_inputs(feed.packed(0), recipe)
        if phase.fresh or motion is None:
            motion = build_motion(training, inputs, _fresh(phases[:number]))
        stage = Stage(feed, motion, phase, number, last=number == len(phases))
        _run_phase(training, stage, point)
        point = None
        if phase.name == PROBE:
            training.probed = training.state()
            if course.config.strategy.wise_ft is not None:
                training.chosen = Chosen(recipe.choose)  # of what follows alone


def _fresh(phases: tuple[Phase, ...]) -> Phase:
    """Return the last phase that began with an optimiser of its own."""
    return next(phase for phase in reversed(phases) if phase.fresh)


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


def _run_phase(training: Training, stage: Stage, point: Tree | None) -> None:
    """Train a phase's epochs; those that are left, where it goes on at ``point``."""
    trainer = build_trainer(training, stage.feed, stage.motion, stage.phase)
    training.chosen.since = 0  # a phase has its own chance to get better
    done, lap = 0, None
    if point is not None:
        done, lap = restore_motion(training, stage.motion, stage.feed, point)
        if lap is None and _is_stuck(training, stage.last):
            return
    taken = partial(snapshot, training, stage.motion, stage.feed, stage.number)
    saving = Saving(training.course.keeper, taken)
    with saving.open(), trainer.forward.for_a_while():
        for epoch in range(done, stage.phase.epochs):
            _run_epoch(training, stage, trainer, epoch, lap, saving)
            saving.after_epoch(epoch + 1, over=_is_over(training, stage, epoch))
            lap = None
            if _is_stuck(training, stage.last):
                break


def _run_epoch(
    training: Training, stage: Stage, trainer: Trainer, epoch: int, lap: Lap | None, saving: Saving
) -> None:
    """Train and validate epoch number ``epoch`` (from 0) of a phase, of which ``lap`` is done."""
    course, feed = training.course, stage.feed
    if lap is None:
        rate = float(trainer.schedule.get_last_lr()[0])
        lap = begin_lap(rate, training.orders, course.device)
    start = time.perf_counter() - lap.seconds
    inputs = make_inputs(feed.packed(epoch), training.recipe)
    order = inputs.order(training.orders)
    pace = Pace(course, len(order), inputs.batches_an_epoch)
    number = len(course.records) + 1
    after_step = partial(saving.after_step, epoch)
    sums = train_epoch(trainer, inputs, order, number, pace.after_batch, lap, after_step)
    if not course.records:  # said once
        tell_left_out(feed)
    with saving.validating(epoch, lap):
        validated = _validate(training, feed)
    record = _record(course, lap.rate, sums, validated, time.perf_counter() - start)
    training.chosen.offer(training.state, record)
    course.add(record)


def build_trainer(training: Training, feed: Feed, motion: Motion, phase: Phase) -> Trainer:
    """Put together what the steps of one phase need."""
    course, recipe = training.course, training.recipe
    model = feed.model
    if world() > 1:
        model = _shared(model, course.device)
    inputs = make_inputs(feed.packed(0), recipe)
    batches = inputs.batches_an_epoch * phase.epochs
    optimizer, schedule = motion
    forward = Forward(model, recipe, course.device, batches, course.vary)
    return Trainer(
        network=training.network,
        forward=forward,
        frozen=training.frozen,
        optimizer=optimizer,
        schedule=schedule,
        objective=make_objective(
            course, training.penalty, training.views, on_features=feed.cached is not None
        ),
        halving=Halving(course.at_once, forward, optimizer, course.device, course.fell_short),
        ema=training.ema,
        recipe=recipe,
        device=course.device,
        precision=course.precision,
    )


def _shared(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Let processes exchange a model's gradients; and rank 0's buffers, if they can differ.

    A norm over all processes' images has the same statistics in each.
    """
    same = device.type == "cuda" and all(
        isinstance(module, nn.SyncBatchNorm)
        for module in model.modules()
        if any(buffer.is_floating_point() for buffer in module.buffers(recurse=False))
    )
    return DistributedDataParallel(model, broadcast_buffers=not same)


def _validate(training: Training, feed: Feed) -> tuple[float, float]:
    """Return accuracy and log loss on the validation split; rank 0 finds them for all."""
    found = None
    if rank() == 0:
        scores = feed.validate()
        found = [scores.accuracy, scores.log_loss]
    accuracy, log_loss = of_first(found, training.course.device)
    if not math.isfinite(log_loss):  # the last step can break the weights unseen
        raise DivergedError(
            "The network's outputs are no longer finite numbers after an epoch.\n"
            f"Lower training.learning_rate (now {training.recipe.learning_rate:g})."
        )
    return accuracy, log_loss


def _is_over(training: Training, stage: Stage, epoch: int) -> bool:
    """Tell whether the job is done after ``epoch``: its weights are about to be written."""
    ends = epoch + 1 == stage.phase.epochs or _lost_patience(training)
    return stage.last and ends and not training.course.mixes


def _lost_patience(training: Training) -> bool:
    patience = training.recipe.early_stopping
    return patience is not None and training.chosen.since >= patience


def _is_stuck(training: Training, last: bool) -> bool:
    """Tell whether early stopping ends the training here; phases before the last are run whole."""
    stuck = last and _lost_patience(training)
    if stuck:
        patience = training.recipe.early_stopping
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
