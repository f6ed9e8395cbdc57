"""What becomes of trained weights: kept as they are, mixed with those before, or with others'."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from tasks.evaluate.score import Scores
from tasks.finetune.averaging import greedy_soup, recalibrate, wise_ft
from tasks.finetune.chosen import Outcome, State
from tasks.finetune.course import Course
from tasks.finetune.feed import training_images, validate_images
from tasks.finetune.start import Training
from tasks.finetune.training import train_once
from tasks.preprocess.batches import shuffled
from tasks.preprocess.stream import StreamedImages
from tasks.preprocess.views import eval_view

# A soup's trainings differ in the order of images and in the learning rate (Wortsman et al. 2022,
# section 3.2, search over rates around the usual one).
_SOUP_RATES = (1.0, 0.5, 2.0, 0.7, 1.4)
_SOUP_SEEDS = 1_000_003  # between the seeds of one soup's trainings
_RECALIBRATING = 2_000  # images are plenty for the mean and variance of a channel


def train(course: Course) -> Outcome:
    """Run the job's one training, or all of a soup's, and mix what the strategy says."""
    if course.config.strategy.soup is not None:
        return _soup(course)
    training = train_once(course, course.config.training, course.config.seed)
    if course.config.strategy.wise_ft is not None:
        return _wise(course, training)
    return _kept(training)


def _kept(training: Training) -> Outcome:
    record = training.chosen.record
    assert record is not None  # every training has an epoch
    return Outcome(
        state=training.chosen.state,
        epoch=record.epoch,
        val_accuracy=record.val_accuracy,
        val_loss=record.val_loss,
        trainable=training.trainable,
        parameters=training.parameters,
    )


def _wise(course: Course, training: Training) -> Outcome:
    share, start = course.config.strategy.wise_ft, training.probed
    assert share is not None
    assert start is not None  # the weights of the head's own phase
    kept, network = _kept(training), training.network
    found = wise_ft(network, start, kept.state, share, partial(validate_images, course))
    course.note(f"WiSE-FT: {found.share:g} of the fine-tuned weights, the rest from before")
    return _mixed(kept, found.state, validate_images(course, network))


def _soup(course: Course) -> Outcome:
    n = course.config.strategy.soup or 1
    kept = course.members
    for number in range(len(kept), n):  # of each only its weights stay in memory
        training = _ingredient(course, number)
        kept.append(_kept(training))
    network, still = training.network, training.frozen.modules()
    soup = greedy_soup(
        network,
        [one.state for one in kept],
        partial(validate_images, course),
        lambda mean: recalibrate(mean, _views(course), still),
    )
    course.note(f"soup of {len(soup.members)} of {n} models")
    best = kept[soup.members[0]]
    return _mixed(best, soup.state, validate_images(course, network))


def _ingredient(course: Course, number: int) -> Training:
    recipe, rate = course.config.training, _SOUP_RATES[number % len(_SOUP_RATES)]
    head = recipe.head_learning_rate
    rates = {
        "learning_rate": recipe.learning_rate * rate,
        "head_learning_rate": None if head is None else head * rate,
    }
    seed = (course.config.seed + number * _SOUP_SEEDS) % 2**31
    return train_once(course, recipe.model_copy(update=rates), seed)


def _mixed(kept: Outcome, state: State, scores: Scores) -> Outcome:
    return Outcome(
        state=state,
        epoch=kept.epoch,
        val_accuracy=scores.accuracy,
        val_loss=scores.log_loss,
        trainable=kept.trainable,
        parameters=kept.parameters,
    )


def _views(course: Course) -> Iterator[Tensor]:
    """Yield training images as evaluation sees them, always the same ones in the same order."""
    size = course.scoring_batch
    images = training_images(course)
    generator = torch.Generator().manual_seed(course.config.seed)
    if isinstance(images, StreamedImages):
        batches = images.first(_RECALIBRATING, size, generator, course.device)
    else:
        order = shuffled(course.prepared.train.n, size, generator)[:_RECALIBRATING]
        batches = images.batches(order, size, course.device)
    for images_bhwc, _ in batches:
        yield eval_view(images_bhwc, course.prepared.input)
