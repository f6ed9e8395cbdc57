"""What a step minimises, and how a batch is made ready for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.finetune.course import Course
from tasks.finetune.distill import DistillationLoss, Teacher
from tasks.finetune.losses import build_loss
from tasks.finetune.penalty import L2SP
from tasks.preprocess.augment import train_view
from tasks.preprocess.batches import Batch
from tasks.preprocess.mix import Mix
from tasks.recipe import TrainingConfig
from tasks.values import InputSpec

Hints = Tensor | None  # a teacher's logits (b, k)


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, with everything that a strategy or a recipe adds to it."""

    plain: nn.Module  # of logits and targets
    recipe: TrainingConfig
    spec: InputSpec
    generator: torch.Generator  # CPU; drives augmentation and mixing
    mix: Mix
    penalty: L2SP | None
    teacher: Teacher | None
    distillation: DistillationLoss | None
    on_features: bool  # batches hold what the frozen part gives, not images

    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Hints]:
        """Return the network's inputs, the targets, and the teacher's logits if there is one."""
        inputs, labels = batch
        if self.on_features:
            return inputs, labels, None
        images_bchw = train_view(inputs, self.spec, self.recipe, self.generator)
        hints = None if self.teacher is None else self.teacher.logits(images_bchw, self.spec)
        if not self.mix.on:
            return images_bchw, labels, hints
        mixed_bchw, targets_bk = self.mix(images_bchw, labels, self.generator)
        return mixed_bchw, targets_bk, hints

    def loss(self, logits_bk: Tensor, targets: Tensor, hints: Hints) -> Tensor:
        """Return the mean loss of a batch, without penalties on the weights."""
        if self.distillation is not None and hints is not None:
            found: Tensor = self.distillation(logits_bk, hints, targets)
            return found
        plain: Tensor = self.plain(logits_bk, targets)
        return plain

    def right(self, logits_bk: Tensor, labels: Tensor) -> Tensor:
        """Count the images whose label, or whose every label, is right; before any mixing."""
        if labels.ndim == 1:
            return (logits_bk.argmax(dim=1) == labels).sum()
        return ((logits_bk > 0) == (labels > 0)).all(dim=1).sum()


def make_objective(
    course: Course, penalty: L2SP | None, generator: torch.Generator, on_features: bool
) -> Objective:
    """Put together the loss of a job; ``penalty`` knows where the weights started."""
    prepared, strategy = course.prepared, course.config.strategy
    recipe, multi_label = course.config.training, prepared.multi_label
    plain = build_loss(recipe, prepared.train, multi_label, course.device)
    distillation = None
    if course.teacher is not None:
        distillation = DistillationLoss(
            strategy.distill_weight, strategy.distill_temperature, plain, multi_label
        )
    return Objective(
        plain=plain,
        recipe=recipe,
        spec=prepared.input,
        generator=generator,
        mix=Mix(recipe, len(prepared.classes)),
        penalty=penalty,
        teacher=course.teacher,
        distillation=distillation,
        on_features=on_features,
    )
