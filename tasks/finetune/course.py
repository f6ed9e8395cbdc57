"""One fine-tuning job: what it is given, and what it has recorded so far."""

from __future__ import annotations

import json
import logging
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from tasks.artifacts import write_atomic
from tasks.config import RunConfig
from tasks.finetune.at_once import AtOnce
from tasks.finetune.chosen import Outcome
from tasks.finetune.device import (
    pages_kept_over,
    pick_device,
    pick_precision,
    scoring_batch,
    use_threads,
)
from tasks.finetune.distill import Teacher, load_teacher
from tasks.finetune.inputs import refuse_unstreamed
from tasks.finetune.keeper import Keeper
from tasks.finetune.progress import EpochRecord, StepProgress, Watcher
from tasks.finetune.ranks import local_device, rank
from tasks.finetune.tree_file import Tree
from tasks.values import Backbone, PreparedDataset, RegisteredModel

SHORT = "memory ran out: what is free decides in which parts a batch goes through"

log = logging.getLogger(__name__)


@dataclass
class Course:
    """What all trainings of one job share; a soup has several, other strategies one."""

    config: RunConfig
    prepared: PreparedDataset
    backbone: Backbone
    folder: Path
    watcher: Watcher
    device: torch.device
    precision: torch.dtype
    teacher: Teacher | None
    records: list[EpochRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was decided on the way
    varying: list[str] = field(default_factory=list)  # what may be otherwise another time
    members: list[Outcome] = field(default_factory=list)  # a soup's trainings that are done
    at_once: AtOnce = field(default_factory=AtOnce)  # images, in training
    scored_at_once: AtOnce = field(default_factory=AtOnce)
    keeper: Keeper | None = None  # of checkpoints; None: none are written
    point: Tree | None = None  # how far an earlier process came, until its training goes on
    teacher_sha256: str | None = None
    seconds_before: float = 0.0  # that earlier processes trained
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long the job has been trained, in this process and those before it."""
        return self.seconds_before + time.perf_counter() - self.began

    @property
    def epochs(self) -> int:
        """How many epochs all trainings of the job have."""
        return self.config.training.epochs * (self.config.strategy.soup or 1)

    @property
    def mixes(self) -> bool:
        """Tell whether there is more to do when a training is over."""
        strategy = self.config.strategy
        return strategy.soup is not None or strategy.wise_ft is not None

    @property
    def scoring_batch(self) -> int:
        """How many images are scored at once."""
        crop = self.prepared.input.crop
        return scoring_batch(self.config.evaluation.batch_size, self.device, crop)

    def pages_kept(self) -> AbstractContextManager[None]:
        """Keep a step's memory for the next one: on a CPU, and where no images are streamed."""
        return pages_kept_over(self.prepared.train, self.device)

    def note(self, text: str) -> None:
        """Say what was decided and keep it for the report."""
        self.notes.append(text)
        log.info(text)

    def vary(self, reason: str) -> None:
        """Note what may give other weights another time; once, however often it is said."""
        if reason not in self.varying:
            self.varying.append(reason)

    def fell_short(self, text: str) -> None:
        """Note what was done for want of memory, of which another time may have more or less."""
        self.note(text)
        self.vary(SHORT)

    def add(self, record: EpochRecord) -> None:
        """Write an epoch down and tell the watcher; the other processes only remember it."""
        self.records.append(record)
        if rank() > 0:
            return
        lines = "".join(json.dumps(asdict(r)) + "\n" for r in self.records)
        write_atomic(self.folder / "history.jsonl", lines.encode())
        self.watcher.epoch(record)


def open_course(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    watcher: Watcher,
    teacher: RegisteredModel | None,
) -> Course:
    """Set the threads, pick device and precision, and load the teacher, if there is one.

    Raises ``ResourceError`` for a device that is not there, ``ConfigError`` for a teacher that
    does not fit the data, and as ``refuse_unstreamed``.
    """
    recipe = config.training
    refuse_unstreamed(prepared.train, recipe)
    use_threads(recipe.threads)
    device = local_device(pick_device(recipe.device))
    precision = pick_precision(recipe.precision, device)
    known = None
    if teacher is not None:
        labels = prepared.multi_label
        known = load_teacher(teacher, prepared.classes, device, precision, labels)
    course = Course(config, prepared, backbone, folder, watcher, device, precision, known)
    course.teacher_sha256 = None if teacher is None else teacher.sha256
    return course


class Pace:
    """Turn counts into images/s and time left, validation of past epochs counted in."""

    def __init__(self, course: Course, images: int, batches: int) -> None:
        self._epoch, self._epochs = len(course.records) + 1, course.epochs
        self._images, self._batches = images, batches
        self._past = course.records[-1].seconds if course.records else None
        self._watcher = course.watcher

    def after_batch(self, batch: int, done: int, seconds: float) -> None:
        """Tell the watcher how far the epoch is."""
        if rank() > 0:
            return
        epoch_seconds = seconds * self._images / done
        left = epoch_seconds - seconds
        whole = epoch_seconds if self._past is None else self._past
        self._watcher.step(
            StepProgress(
                epoch=self._epoch,
                epochs=self._epochs,
                step=batch,
                steps=self._batches,
                images_per_second=done / seconds,
                seconds_left=left + whole * (self._epochs - self._epoch),
            )
        )
