"""Fine-tune a backbone on the training split, choosing the weights on the validation split."""

from __future__ import annotations

import logging
from pathlib import Path

from tasks.artifacts import sha256_bytes, write_atomic
from tasks.config import RunConfig
from tasks.finetune.checkpoint import belongs, resume_course
from tasks.finetune.chosen import Outcome
from tasks.finetune.course import Course, open_course
from tasks.finetune.device import describe, memory_errors
from tasks.finetune.distributed import train_together
from tasks.finetune.feed import tell_unfrozen
from tasks.finetune.gpu_lock import gpus_held
from tasks.finetune.keeper import Keeper
from tasks.finetune.meeting import named_place
from tasks.finetune.mixing import train
from tasks.finetune.progress import Watcher
from tasks.finetune.ranks import rank, world
from tasks.finetune.repeatable import in_fixed_order, repeatability
from tasks.values import Backbone, FineTunedModel, PreparedDataset, RegisteredModel

log = logging.getLogger(__name__)


def finetune(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    watcher: Watcher,
    teacher: RegisteredModel | None = None,
    checkpoints: Path | None = None,
) -> FineTunedModel:
    """Train as ``config.strategy`` and ``config.training`` say; write the weights into ``folder``.

    Writes ``history.jsonl`` (a line an epoch, as it goes) and ``model.safetensors``; and into the
    folder ``checkpoints`` how far it is, from which it goes on where there is something already.
    One process does so: several, of one machine or more, begin anew. The test split is not
    opened. A GPU fine-tunes one model at a time: one that is taken is waited for.
    Raises ``DivergedError`` when the loss is no longer finite, ``ResourceError`` when the disk is
    full or memory too small for even the smallest part of a batch, ``ConfigError`` for a strategy
    that the network has not enough stages for, too few epochs, or a teacher of other classes.
    """
    if world() > 1:  # the process that started this one holds the GPUs
        return _finetune(config, prepared, backbone, folder, watcher, teacher)
    with gpus_held(config.training, config.name):
        several = config.training.nodes > 1 or named_place() is not None
        if config.training.devices > 1 or several:
            return train_together(config, prepared, backbone, folder, watcher, teacher)
        return _finetune(config, prepared, backbone, folder, watcher, teacher, checkpoints)


def _finetune(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    watcher: Watcher,
    teacher: RegisteredModel | None,
    checkpoints: Path | None = None,
) -> FineTunedModel:
    course = open_course(config, prepared, backbone, folder, watcher, teacher)
    where = describe(course.device, course.precision)
    log.info("fine-tuning %s on %s", backbone.architecture, where)
    tell_unfrozen(course)
    if checkpoints is not None:
        resume_course(course, Keeper(checkpoints, belongs(course)))
    with (
        memory_errors(config.training.batch_size, "training.batch_size"),
        in_fixed_order(course),
        course.pages_kept(),
    ):
        outcome = train(course)
    model = _finish(course, outcome, course.seconds)
    return model if teacher is None else model.model_copy(update={"teacher_sha256": teacher.sha256})


def _finish(course: Course, outcome: Outcome, seconds: float) -> FineTunedModel:
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in outcome.state.items()})
    path = course.folder / "model.safetensors"
    if rank() == 0:
        write_atomic(path, content)
    trained_seconds = sum(course.prepared.train.n / r.images_per_second for r in course.records)
    return FineTunedModel(
        folder=course.folder,
        weights=path,
        sha256=sha256_bytes(content),
        architecture=course.backbone.architecture,
        classes=course.prepared.classes,
        input=course.prepared.input,
        multi_label=course.prepared.multi_label,
        strategy=course.config.strategy.kind,
        history=course.folder / "history.jsonl",
        epochs=len(course.records),
        chosen_epoch=outcome.epoch,
        val_accuracy=outcome.val_accuracy,
        val_loss=outcome.val_loss,
        trainable_parameters=outcome.trainable,
        parameters=outcome.parameters,
        device=course.device.type,
        precision=str(course.precision).removeprefix("torch."),
        seconds=seconds,
        images_per_second=course.prepared.train.n * len(course.records) / trained_seconds,
        data_digest=course.prepared.digest,
        backbone_sha256=course.backbone.sha256,
        notes=tuple(course.notes),
        repeatable=repeatability(course),
    )
