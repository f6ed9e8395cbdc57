"""What a phase trains on: the images, or what the frozen part makes of them, computed once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from tasks.artifacts import cache_folder
from tasks.evaluate.score import Scores, score, score_batches
from tasks.finetune.course import Course
from tasks.finetune.cut import CannotCut, Cut, cut_network
from tasks.finetune.device import memory_errors
from tasks.finetune.feature_worth import NoRoom, ruled_out
from tasks.finetune.features import (
    CachedFeatures,
    FeatureRequest,
    PackedFeatures,
    cache_features,
    worth_caching,
)
from tasks.finetune.inputs import Packed
from tasks.finetune.phases import Phase, plan_phases
from tasks.finetune.ranks import first_alone, of_first, summed
from tasks.finetune.start import Training
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.stream import StreamedImages
from tasks.values import StreamedSplit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Feed:
    """A model, and the training split in the form that it takes."""

    course: Course
    model: nn.Module  # the network, or its part behind the frozen one
    cached: CachedFeatures | None
    average: nn.Module | None = None  # the same of the moving average, which is then scored

    def packed(self, epoch: int) -> Packed | StreamedImages:
        """Return the training split for an epoch (from 0) of the phase."""
        if self.cached is None:
            return self._images
        train: PackedFeatures = self.cached.train
        view: PackedFeatures = train.view(epoch % train.views)
        return view

    @cached_property
    def _images(self) -> PackedImages | StreamedImages:
        return training_images(self.course)

    def validate(self) -> Scores:
        """Score the model, or its moving average, on the validation split."""
        course, size = self.course, self.course.scoring_batch
        model = self.model if self.average is None else self.average
        with memory_errors(size, "evaluation.batch_size"):
            if self.cached is None:
                return validate_images(course, model)
            model.eval()
            scored = partial(self._validate_features, model, self.cached.val)
            return course.scored_at_once.fewer(scored, min(size, self.cached.val.n), course.device)

    def _validate_features(self, model: nn.Module, val: PackedFeatures, size: int) -> Scores:
        course, rows = self.course, torch.arange(val.n).numpy()
        batches = val.batches(rows, size, course.device)
        return score_batches(model, batches, val.labels_n, course.device, course.precision)


def training_images(course: Course) -> PackedImages | StreamedImages:
    """Return the training split in the form that it was prepared in."""
    train = course.prepared.train
    if isinstance(train, StreamedSplit):
        return StreamedImages(train, course.prepared.input, course.config.data)
    return PackedImages(train)


def tell_left_out(feed: Feed) -> None:
    """Say how many images of the epoch behind could not be used; a pack has none of them."""
    images = feed.packed(0)
    if not isinstance(images, StreamedImages):
        return
    device = feed.course.device
    n = int(summed(torch.tensor(images.left_out, device=device)))
    if n:
        such = f", such as {images.example}" if images.example else ""  # another process's
        feed.course.note(f"{n:,} training image(s) cannot be used and were left out{such}")


def validate_images(course: Course, network: nn.Module) -> Scores:
    """Score the validation split from its images."""
    val, spec, device = course.prepared.val, course.prepared.input, course.device
    return course.scored_at_once.fewer(
        lambda size: score(network, val, spec, device, size, course.precision),
        min(course.scoring_batch, val.n),
        device,
    )


def tell_unfrozen(course: Course) -> None:
    """Say that views which the recipe asks for are not kept, where no phase freezes a stage.

    Of ``lora``, ``make_feed`` says why in any case.
    """
    strategy, recipe = course.config.strategy, course.config.training
    phases = plan_phases(strategy, course.backbone, recipe.epochs)
    unfrozen = strategy.kind != "lora" and not any(phase.frozen for phase in phases)
    if recipe.feature_views is not None and unfrozen:
        log.info("features are not cached: strategy.kind=%s freezes no stage", strategy.kind)


def make_feed(training: Training, phase: Phase) -> Feed:
    """Return the feed of a phase: cached features where the frozen part allows and it pays."""
    course, ema = training.course, training.ema
    average = None if ema is None else ema.network
    plain = Feed(course, training.network, None, average)
    if course.config.strategy.kind == "lora":
        log.info("features are not cached: strategy.kind=lora adapts the first layers as well")
    if not phase.frozen:
        return plain
    cut = _cut(training, phase)
    if cut is None:
        return plain
    with first_alone():
        cached = cache_features(cut, course.prepared, _request(course), _folder(course))
    # what is frozen is the same in the average, to the bit: no phase before has moved it
    behind = None if average is None else cut.suffix.of(average)
    return Feed(course, cut.suffix, cached, behind)


def _cut(training: Training, phase: Phase) -> Cut | None:
    """Return the cut to cache at; None, with the reason in the log, where nothing is cached."""
    course, network, frozen = training.course, training.network, training.frozen
    recipe = course.config.training
    if (
        ruling := ruled_out(course.prepared, recipe)
    ) is not None:  # asked before the network is traced
        log.info("features are not cached: %s", ruling)
        return None
    frozen.train_mode()
    crop = course.prepared.input.crop
    sample_bchw = torch.zeros(2, 3, crop, crop, device=course.device)
    try:
        cut = cut_network(network, phase.frozen, sample_bchw)
    except CannotCut as error:
        log.info("features are not cached: %s", error)
        return None
    trainings = course.config.strategy.soup or 1
    reason = worth_caching(
        cut, course.prepared, recipe, phase.epochs, _folder(course), trainings=trainings
    )
    # it looks at the disk, which may have filled up since another process looked
    if not all(of_first([float(reason is None)] * 2, course.device)):
        log.info("features are not cached: %s", reason)
        if isinstance(reason, NoRoom):
            course.vary(f"features were not cached: {reason}")
        return None
    return cut


def _folder(course: Course) -> Path:
    return cache_folder(course.config.output.cache) / "features"


def _request(course: Course) -> FeatureRequest:
    return FeatureRequest(
        recipe=course.config.training,
        seed=course.config.seed,
        device=course.device,
        precision=course.precision,
        backbone_digest=course.backbone.sha256 or "",
        evaluation_batch=course.scoring_batch,
    )
