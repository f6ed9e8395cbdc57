"""How far a training is, put back into another one: without epochs, so that each part is seen."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from tasks.errors import DivergedError
from tasks.finetune.checkpoint import (
    belongs,
    restore_motion,
    restore_weights,
    resume_course,
    snapshot,
)
from tasks.finetune.chosen import Outcome
from tasks.finetune.course import SHORT, Course
from tasks.finetune.feed import Feed
from tasks.finetune.inputs import make_inputs
from tasks.finetune.keeper import Keeper
from tasks.finetune.lap import begin_lap
from tasks.finetune.phases import plan_phases
from tasks.finetune.progress import EpochRecord
from tasks.finetune.start import Training, start_training
from tasks.finetune.training import Motion, _validate, build_motion
from tests.tasks.finetune.test_tree_file import same

RECORD = EpochRecord(1, 4, 1.5, 0.5, 1.25, 0.625, 0.01, 3.0, 200.0)
LOGGER = "tasks.finetune.checkpoint"
CPU = torch.device("cpu")


class Begun(NamedTuple):
    """A training, and what moves its weights."""

    training: Training
    motion: Motion
    feed: Feed

    def step(self) -> None:
        """Let every parameter, its average and its rate move."""
        optimizer, schedule = self.motion
        sum(p.square().sum() for p in self.training.network.parameters()).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        self.training.ema.update(self.training.network)


@pytest.fixture
def begin(make_course: Callable[..., Course]) -> Callable[..., Begun]:
    """Return a maker of trainings before their first step."""

    def make(seed: int, **strategy: object) -> Begun:
        recipe = {"epochs": 4, "optimizer": "adamw", "schedule": "cosine"}
        course = make_course(strategy or {"kind": "ema", "ema_decay": 0.5}, training=recipe)
        training = start_training(course, course.config.training, seed)
        feed = Feed(course, training.network, None)
        inputs = make_inputs(feed.packed(0), training.recipe)
        (phase,) = plan_phases(course.config.strategy, course.backbone, 4)
        return Begun(training, build_motion(training, inputs, phase), feed)

    return make


def far(begun: Begun) -> None:
    """Let a training have something of everything behind it."""
    training, course = begun.training, begun.training.course
    for _ in range(3):
        begun.step()
    training.chosen.offer(training.state, RECORD)
    training.probed = {"fc.bias": torch.ones(3)}
    course.records[:], course.notes[:] = [RECORD, RECORD], ["a note"]
    course.members[:] = [Outcome({"fc.bias": torch.zeros(3)}, 1, 0.5, 0.25, 3, 4)]
    course.seconds_before, course.at_once.images = 100.0, 8
    torch.rand(3, generator=training.views)


def test_another_training_is_as_far_once_all_is_put_back(begin, tmp_path, caplog):
    begun, other = begin(1), begin(9)
    far(begun)
    lap = begin_lap(0.25, begun.training.orders, CPU)
    lap.batches = 2
    order = torch.randperm(9, generator=begun.training.orders).tolist()
    of = belongs(begun.training.course)
    point = snapshot(*begun, 2, 3, lap)
    Keeper(tmp_path, of).write(point)
    assert (point["phase"], point["epochs"]) == (2, 3)
    assert 100 <= point["seconds"] < 200

    torch.rand(1)  # as another process would be
    course, keeper = other.training.course, Keeper(tmp_path, of)
    with caplog.at_level(logging.INFO, LOGGER):
        resume_course(course, keeper)
        restore_weights(other.training, course.point)
        done, again = restore_motion(*other, course.point)
    assert (course.keeper, keeper.take()) == (keeper, None)
    assert (course.records, course.notes) == ([RECORD, RECORD], ["a note"])
    assert course.seconds_before == point["seconds"]
    assert (course.at_once.images, course.varying) == (8, [SHORT])
    assert torch.randperm(9, generator=other.training.orders).tolist() == order
    assert (done, again.batches, again.rate) == (3, 2, 0.25)
    same_time = {"seconds": point["seconds"]}
    assert same(snapshot(*other, 2, done, again) | same_time, point)
    (member,) = course.members
    assert isinstance(member, Outcome)
    said = [(record.name, record.getMessage()) for record in caplog.records]
    assert said == [(LOGGER, "going on in epoch 3 of 4 after batch 2")]


def test_between_two_epochs_and_without_an_average_all_is_put_back_too(begin):
    begun, other = begin(1, kind="full"), begin(9, kind="full")
    torch.rand(3, generator=begun.training.orders)
    point = snapshot(*begun, 1, 2, None)
    restore_weights(other.training, point)
    assert restore_motion(*other, point) == (2, None)
    assert same(snapshot(*other, 1, 2, None) | {"seconds": point["seconds"]}, point)


def test_what_is_in_no_checkpoint_of_an_older_graft_is_not_asked_for(begin, tmp_path, caplog):
    course = begin(1).training.course
    old = {"records": [asdict(RECORD)], "notes": [], "members": [], "seconds": 1.0, "lap": None}
    Keeper(tmp_path, belongs(course)).write(old)
    with caplog.at_level(logging.INFO, LOGGER):
        resume_course(course, Keeper(tmp_path, belongs(course)))
    assert (course.at_once.images, course.varying) == (None, [])
    assert caplog.messages == ["going on after epoch 1 of 4"]


def test_where_nothing_was_written_a_training_begins(begin, tmp_path):
    course = begin(1).training.course
    keeper = Keeper(tmp_path, belongs(course))
    resume_course(course, keeper)
    assert (course.keeper, course.point, course.records) == (keeper, None, [])


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (True, "cached before the break and are not now"),
        (False, "not cached before the break and are cached now"),
    ],
)
def test_features_that_are_cached_on_one_side_alone_are_said(begin, caplog, before, words):
    begun = begin(1)
    point = snapshot(*begun, 1, 1, None)
    point["cached"] = before
    feed = Feed(begun.training.course, begun.training.network, None if before else object())
    assert restore_motion(begun.training, begun.motion, feed, point) == (1, None)
    assert caplog.messages == [
        f"features were {words}: the run ends with other weights than without it"
    ]
    caplog.clear()
    now = Feed(feed.course, feed.model, object() if before else None)
    assert snapshot(begun.training, begun.motion, now, 1, 1, None)["cached"] is before
    restore_motion(begun.training, begun.motion, now, point)
    assert caplog.messages == []


def test_what_is_counted_goes_on_on_the_device(begin):
    begun = begin(1)
    point = snapshot(*begun, 1, 1, begin_lap(0.1, begun.training.orders, CPU))
    begun.training.course.device = torch.device("meta")
    _, lap = restore_motion(*begun, point)
    assert lap.sums.device.type == "meta"


def test_the_dice_of_the_device_are_put_back_too(begin, monkeypatch):
    """Without one here, what torch is asked for is looked at."""
    begun, fell = begin(1), []
    begun.training.course.device = torch.device("mps")
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "dice")
    monkeypatch.setattr(torch.mps, "set_rng_state", fell.append)
    restore_motion(*begun, snapshot(*begun, 1, 1, None))
    assert fell == ["dice"]


def test_a_checkpoint_belongs_to_what_decides_the_weights(begin):
    course = begin(1).training.course
    course.teacher_sha256 = "7" * 64
    course.backbone = course.backbone.model_copy(update={"sha256": "8" * 64})
    assert belongs(course) == {
        "data": course.prepared.digest,
        "backbone": f"graft_tiny {'8' * 64}",
        "teacher": "7" * 64,
        "device": "cpu",
        "precision": "float32",
        "threads": str(torch.get_num_threads()),
    }


def test_outputs_that_are_no_numbers_end_a_training(begin):
    training = begin(0).training
    feed = SimpleNamespace(validate=lambda: SimpleNamespace(accuracy=0.5, log_loss=worth))
    for worth in (0.25, math.inf, math.nan):
        if math.isfinite(worth):
            assert _validate(training, feed) == (0.5, worth)
            continue
        with pytest.raises(DivergedError, match=r"(?s)no longer finite.*training\.learning_rate"):
            _validate(training, feed)
