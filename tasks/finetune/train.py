"""Fine-tune a backbone on the training split, choosing the epoch on the validation split."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from tasks.artifacts import sha256_bytes, write_atomic
from tasks.config import RunConfig
from tasks.errors import TrainingError
from tasks.evaluate.score import Scores, score
from tasks.finetune.device import (
    describe,
    memory_errors,
    on_device,
    pick_device,
    pick_precision,
    use_threads,
)
from tasks.finetune.loop import EpochSums, Trainer, train_epoch
from tasks.finetune.optimizer import build_optimizer, build_schedule
from tasks.finetune.progress import EpochRecord, StepProgress, Watcher
from tasks.finetune.strategy import FrozenPart, count_trainable, frozen_names
from tasks.preprocess.batches import PackedImages, images_an_epoch, shuffled
from tasks.pretrained.network import build_network
from tasks.values import Backbone, FineTunedModel, PreparedDataset

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]


class Chosen:
    """The weights of the epoch that will be kept, copied off the device."""

    def __init__(self, how: str) -> None:
        self._how = how
        self.state: State = {}
        self.record: EpochRecord | None = None

    def offer(self, network: nn.Module, record: EpochRecord) -> None:
        """Keep this epoch if it is better: higher validation accuracy, then lower loss."""
        best = self.record
        if self._how == "best" and best is not None:
            new, old = (record.val_accuracy, -record.val_loss), (best.val_accuracy, -best.val_loss)
            if new <= old:
                return
        self.record = record
        self.state = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}


def finetune(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    watcher: Watcher,
) -> FineTunedModel:
    """Train ``config.training.epochs`` epochs and write the chosen weights into ``folder``.

    Writes ``history.jsonl`` (a line an epoch, as it goes) and ``model.safetensors``. The test
    split is not opened. Raises ``TrainingError`` when the loss is no longer finite,
    ``ResourceError`` when memory or disk runs out, ``ConfigError`` for a strategy that the
    network has not enough stages for.
    """
    recipe = config.training
    use_threads(recipe.threads)
    device = pick_device(recipe.device)
    with memory_errors(recipe.batch_size, "training.batch_size"):
        trainer = _trainer(config, prepared, backbone, device)
        log.info("fine-tuning %s on %s", backbone.architecture, describe(device, trainer.precision))
        start = time.perf_counter()
        chosen, records = _run_epochs(config, prepared, trainer, folder, watcher)
    return _finish(
        config, prepared, backbone, folder, trainer, chosen, records, time.perf_counter() - start
    )


def _trainer(
    config: RunConfig, prepared: PreparedDataset, backbone: Backbone, device: torch.device
) -> Trainer:
    recipe = config.training
    torch.manual_seed(config.seed)  # dropout draws from the global generator
    network = build_network(backbone, len(prepared.classes), config.seed)
    frozen = FrozenPart(network, frozen_names(config.strategy, backbone))
    network = on_device(network, device)
    optimizer = build_optimizer(network, recipe, backbone.head)
    images = images_an_epoch(prepared.train.n, recipe.batch_size)
    steps = recipe.epochs * -(-images // recipe.batch_size)
    return Trainer(
        network=network,
        frozen=frozen,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, recipe, steps),
        recipe=recipe,
        spec=prepared.input,
        device=device,
        precision=pick_precision(recipe.precision, device),
        generator=torch.Generator().manual_seed(config.seed),
    )


def _run_epochs(
    config: RunConfig,
    prepared: PreparedDataset,
    trainer: Trainer,
    folder: Path,
    watcher: Watcher,
) -> tuple[Chosen, list[EpochRecord]]:
    packed = PackedImages(prepared.train)
    chosen, records = Chosen(config.training.choose), list[EpochRecord]()
    for epoch in range(1, config.training.epochs + 1):
        start = time.perf_counter()
        rate = float(trainer.schedule.get_last_lr()[0])
        order = shuffled(prepared.train.n, config.training.batch_size, trainer.generator)
        pace = _Pace(config, epoch, len(order), records, watcher)
        sums = train_epoch(trainer, packed, order, epoch, pace.after_step)
        scores = _validate(config, prepared, trainer)
        record = _record(config, epoch, rate, sums, scores, time.perf_counter() - start)
        records.append(record)
        lines = "".join(json.dumps(asdict(r)) + "\n" for r in records)
        write_atomic(folder / "history.jsonl", lines.encode())
        chosen.offer(trainer.network, record)
        watcher.epoch(record)
    return chosen, records


def _validate(config: RunConfig, prepared: PreparedDataset, trainer: Trainer) -> Scores:
    batch_size = config.evaluation.batch_size
    with memory_errors(batch_size, "evaluation.batch_size"):
        scores = score(
            trainer.network,
            prepared.val,
            prepared.input,
            trainer.device,
            batch_size,
            trainer.precision,
        )
    if not math.isfinite(scores.log_loss):  # the last step can break the weights unseen
        raise TrainingError(
            "The network's outputs are no longer finite numbers after an epoch.\n"
            f"Lower training.learning_rate (now {config.training.learning_rate:g})."
        )
    return scores


class _Pace:
    """Turn counts into images/s and time left, validation of past epochs counted in."""

    def __init__(
        self, config: RunConfig, epoch: int, images: int, past: list[EpochRecord], watcher: Watcher
    ) -> None:
        self._epoch, self._epochs, self._images = epoch, config.training.epochs, images
        self._batch = config.training.batch_size
        self._past = past
        self._watcher = watcher

    def after_step(self, step: int, done: int, seconds: float) -> None:
        epoch_seconds = seconds * self._images / done
        left = epoch_seconds - seconds
        whole = self._past[-1].seconds if self._past else epoch_seconds
        self._watcher.step(
            StepProgress(
                epoch=self._epoch,
                epochs=self._epochs,
                step=step,
                steps=-(-self._images // self._batch),
                images_per_second=done / seconds,
                seconds_left=left + whole * (self._epochs - self._epoch),
            )
        )


def _record(
    config: RunConfig, epoch: int, rate: float, sums: EpochSums, scores: Scores, seconds: float
) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        epochs=config.training.epochs,
        train_loss=sums.loss,
        train_accuracy=sums.accuracy,
        val_loss=scores.log_loss,
        val_accuracy=scores.accuracy,
        learning_rate=rate,
        seconds=seconds,
        images_per_second=sums.images / sums.seconds,
    )


def _finish(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    trainer: Trainer,
    chosen: Chosen,
    records: list[EpochRecord],
    seconds: float,
) -> FineTunedModel:
    from safetensors.torch import save

    if chosen.record is None:
        raise TrainingError("No epoch was trained.\nSet training.epochs to 1 or more.")
    content = save({name: tensor.contiguous() for name, tensor in chosen.state.items()})
    write_atomic(folder / "model.safetensors", content)
    trained_seconds = sum(prepared.train.n / r.images_per_second for r in records)
    return FineTunedModel(
        folder=folder,
        weights=folder / "model.safetensors",
        sha256=sha256_bytes(content),
        architecture=backbone.architecture,
        classes=prepared.classes,
        input=prepared.input,
        strategy=config.strategy.kind,
        history=folder / "history.jsonl",
        epochs=len(records),
        chosen_epoch=chosen.record.epoch,
        val_accuracy=chosen.record.val_accuracy,
        val_loss=chosen.record.val_loss,
        trainable_parameters=count_trainable(trainer.network),
        parameters=sum(p.numel() for p in trainer.network.parameters()),
        device=trainer.device.type,
        precision=str(trainer.precision).removeprefix("torch."),
        seconds=seconds,
        images_per_second=prepared.train.n * len(records) / trained_seconds,
        data_digest=prepared.digest,
        backbone_sha256=backbone.sha256,
    )
