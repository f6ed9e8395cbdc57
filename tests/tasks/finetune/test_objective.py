"""What a batch becomes before the network and its teacher see it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.finetune.course import Course
from tasks.finetune.distill import Teacher
from tasks.finetune.objective import Objective, make_objective
from tasks.preprocess.augment import train_view
from tasks.preprocess.batches import Batch, PackedImages
from tasks.values import PreparedDataset

CPU = torch.device("cpu")
VIEWS = {"augment": "crop_flip", "random_erasing": 1.0}


class Looks(nn.Module):
    """Keeps what it is shown, and answers nothing of note."""

    def forward(self, images_bchw: Tensor) -> Tensor:
        self.seen = images_bchw.clone()
        return images_bchw.new_zeros(len(images_bchw), 3)


def objective_of(course: Course, teacher: Teacher | None = None) -> Objective:
    course.teacher = teacher
    return make_objective(course, None, torch.Generator().manual_seed(5), on_features=False)


@pytest.fixture
def batch(prepared: PreparedDataset) -> Batch:
    return PackedImages(prepared.train).read(np.arange(16), pin=False)


def test_teacher_and_student_see_the_same_erased_view(
    make_course: Callable[..., Course], batch: Batch, prepared: PreparedDataset
):
    course = make_course({"kind": "full"}, training=VIEWS)
    shown = Looks()
    teacher = Teacher(shown, prepared.input, CPU, torch.float32)
    inputs, _, hints = objective_of(course, teacher).prepare(batch)
    assert torch.equal(shown.seen, inputs)
    assert hints is not None
    boxes = (inputs == 0).all(1).flatten(1).sum(1)
    assert (boxes > 0).all()  # something is erased of every image


def test_a_teacher_does_not_change_what_the_student_sees(
    make_course: Callable[..., Course], batch: Batch, prepared: PreparedDataset
):
    course = make_course({"kind": "full"}, training=VIEWS)
    teacher = Teacher(Looks(), prepared.input, CPU, torch.float32)
    want = train_view(
        batch[0], prepared.input, course.config.training, torch.Generator().manual_seed(5)
    )
    for one in (None, teacher):
        objective = objective_of(course, one)
        inputs, labels, _ = objective.prepare(batch)
        assert torch.equal(inputs, want)
        assert torch.equal(labels, batch[1])
    assert torch.equal(  # nor what the next batch will be
        torch.rand(3, generator=objective.generator),
        torch.rand(3, generator=drawn_so_far(course, batch, prepared)),
    )


def drawn_so_far(course: Course, batch: Batch, prepared: PreparedDataset) -> torch.Generator:
    generator = torch.Generator().manual_seed(5)
    train_view(batch[0], prepared.input, course.config.training, generator)
    return generator
