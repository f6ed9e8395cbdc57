"""How far a training is, as a nest of tensors and plain values, and a training put back there.

It is taken between two optimiser steps, or when an epoch is over. What the phases before have left
is in the weights; what can be made again from config and pretrained weights (frozen parts,
penalties, cached features) is made again. Everything else that decides the steps to come is here.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from tasks.finetune.chosen import Outcome
from tasks.finetune.course import SHORT, Course
from tasks.finetune.feed import Feed
from tasks.finetune.keeper import Keeper
from tasks.finetune.lap import Lap, go_on_with
from tasks.finetune.progress import EpochRecord
from tasks.finetune.randomness import read_randomness, set_randomness
from tasks.finetune.start import Training
from tasks.finetune.tree_file import Tree

if TYPE_CHECKING:
    from tasks.finetune.training import Motion

log = logging.getLogger(__name__)


def snapshot(
    training: Training, motion: Motion, feed: Feed, phase: int, epochs: int, lap: Lap | None
) -> Tree:
    """Return how far a job is after so many ``epochs`` of its training's ``phase`` (from 1).

    ``lap`` is the epoch after them, where that has begun.
    """
    course = training.course
    optimizer, schedule = motion
    return {
        "records": [asdict(record) for record in course.records],
        "notes": list(course.notes),
        "members": [_as_dict(member) for member in course.members],
        "seconds": course.seconds,
        "at_once": course.at_once.images,
        "phase": phase,
        "epochs": epochs,
        "lap": None if lap is None else lap.as_tree(),
        "cached": feed.cached is not None,
        "network": training.network.state_dict(),
        "ema": None if training.ema is None else training.ema.as_tree(),
        "chosen": training.chosen.as_tree(),
        "probed": training.probed,
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": read_randomness(course.device, orders=training.orders, views=training.views),
    }


def _as_dict(member: Outcome) -> dict[str, Any]:
    return {name: getattr(member, name) for name in member.__dataclass_fields__}


def resume_course(course: Course, keeper: Keeper) -> None:
    """Let ``course`` write checkpoints, and be as far as the last one says, if there is one."""
    course.keeper = keeper
    course.point = point = keeper.take()
    if point is None:
        return
    course.records[:] = [EpochRecord(**record) for record in point["records"]]
    course.notes[:] = point["notes"]
    course.members[:] = [Outcome(**member) for member in point["members"]]
    course.seconds_before = point["seconds"]
    course.at_once.images = point.get("at_once")  # older checkpoints have none
    if course.at_once.images is not None:
        course.vary(SHORT)
    done, lap = len(course.records), point["lap"]
    if lap is None:
        log.info("going on after epoch %d of %d", done, course.epochs)
    else:
        log.info(
            "going on in epoch %d of %d after batch %d", done + 1, course.epochs, lap["batches"]
        )


def belongs(course: Course) -> dict[str, str]:
    """Return what a checkpoint of ``course`` belongs to."""
    return {
        "data": course.prepared.digest,
        "backbone": f"{course.backbone.architecture} {course.backbone.sha256}",
        "teacher": str(course.teacher_sha256),
        "device": course.device.type,
        "precision": str(course.precision).removeprefix("torch."),
        "threads": str(torch.get_num_threads()),
    }


def restore_weights(training: Training, point: Tree) -> None:
    """Put back weights and averages; before anything is cut, cached or optimised."""
    training.network.load_state_dict(point["network"])
    if training.ema is not None:
        training.ema.restore(point["ema"])
    training.probed = point["probed"]


def restore_motion(
    training: Training, motion: Motion, feed: Feed, point: Tree
) -> tuple[int, Lap | None]:
    """Put back the rest, dice last.

    Returns how many epochs of the phase are done, and the one that is under way.
    """
    optimizer, schedule = motion
    optimizer.load_state_dict(point["optimizer"])
    schedule.load_state_dict(point["schedule"])
    training.chosen.restore(point["chosen"])
    if point["cached"] != (feed.cached is not None):
        log.warning(
            "features were %s before the break and are %s now: the run ends with other weights "
            "than without it",
            *(("cached", "not") if point["cached"] else ("not cached", "cached")),
        )
    device = training.course.device
    set_randomness(point["random"], device, orders=training.orders, views=training.views)
    tree = point["lap"]
    lap = None if tree is None else go_on_with(tree, training.orders, device)
    return int(point["epochs"]), lap
