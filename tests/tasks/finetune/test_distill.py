"""Distillation against scipy, and the teacher against torchvision's own preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import expit, softmax
from scipy.stats import entropy
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from tasks.artifacts import sha256_file
from tasks.errors import ConfigError
from tasks.finetune.distill import DistillationLoss, Teacher, load_teacher
from tasks.pretrained.tiny import GraftTiny
from tasks.values import InputSpec, RegisteredModel

CLASSES = ("blue", "green", "red")
SPEC = InputSpec(
    resize=28, crop=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bilinear"
)
CPU = torch.device("cpu")


def logits(seed: int) -> torch.Tensor:
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(seed)) * 3


def yes_and_no(probability: np.ndarray) -> np.ndarray:
    return np.stack((probability, 1 - probability))


@pytest.mark.parametrize("weight", [0.25, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_scipys(weight, temperature):
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    plain = nn.CrossEntropyLoss(label_smoothing=0.1)
    found = DistillationLoss(weight, temperature, plain, multi_label=False)(
        student, teacher, labels
    )
    p, q = (softmax(z.double().numpy() / temperature, axis=1) for z in (teacher, student))
    soft = entropy(p, q, axis=1).mean()
    want = (1 - weight) * plain(student, labels).item() + weight * temperature**2 * soft
    assert found.item() == pytest.approx(want, rel=1e-5)


def test_with_several_labels_it_is_scipys_label_by_label():
    student, teacher = logits(0), logits(1)
    targets = (logits(2) > 0).float()
    plain, temperature = nn.BCEWithLogitsLoss(), 2.5
    found = DistillationLoss(0.4, temperature, plain, multi_label=True)(student, teacher, targets)
    p, q = (yes_and_no(expit(z.double().numpy() / temperature)) for z in (teacher, student))
    soft = entropy(p, q, axis=0).mean()
    want = 0.6 * plain(student, targets).item() + 0.4 * temperature**2 * soft
    assert found.item() == pytest.approx(want, rel=1e-5)


def test_the_gradient_is_hintons():
    student, teacher, temperature = logits(0).requires_grad_(True), logits(1), 4.0
    loss = DistillationLoss(1.0, temperature, nn.CrossEntropyLoss(), multi_label=False)
    loss(student, teacher, torch.zeros(7, dtype=torch.long)).backward()
    q, p = ((z.detach() / temperature).softmax(1) for z in (student, teacher))
    torch.testing.assert_close(student.grad, temperature * (q - p) / 7)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn(multi_label):
    same = logits(0) * 100  # as sure as can be
    plain = nn.BCEWithLogitsLoss() if multi_label else nn.CrossEntropyLoss()
    loss = DistillationLoss(1.0, 2.0, plain, multi_label)
    assert loss(same, same, same.sigmoid().round()).item() == pytest.approx(0, abs=1e-6)


@pytest.fixture
def registered(tmp_path: Path) -> RegisteredModel:
    torch.manual_seed(3)
    weights = tmp_path / "model.safetensors"
    save_file(GraftTiny(num_classes=3).state_dict(), weights)
    return RegisteredModel(
        uri="models:/big/7",
        name="big",
        version=7,
        architecture="graft_tiny",
        classes=CLASSES,
        input=SPEC,
        weights=weights,
        sha256=sha256_file(weights),
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [24, 16, 40])
def test_the_teacher_sees_the_whole_view_at_its_own_size(registered, side, interpolation):
    own = SPEC.model_copy(update={"interpolation": interpolation})
    students = InputSpec(
        resize=99, crop=side, mean=(0.1, 0.6, 0.5), std=(0.5, 0.2, 0.1), interpolation="nearest"
    )
    pixels_bchw = torch.rand(5, 3, side, side)
    views_bchw = tv.normalize(pixels_bchw, students.mean, students.std)
    before = views_bchw.clone()
    teacher = load_teacher(
        registered.model_copy(update={"input": own}), CLASSES, CPU, torch.float32, multi_label=False
    )
    found = teacher.logits(views_bchw, students)
    if side != SPEC.crop:
        mode = InterpolationMode(interpolation)
        resized = tv.resize(pixels_bchw, [SPEC.crop, SPEC.crop], mode, antialias=True)
        pixels_bchw = resized.clamp(0, 1)
    torch.manual_seed(3)
    want = GraftTiny(num_classes=3).eval()(tv.normalize(pixels_bchw, SPEC.mean, SPEC.std))
    torch.testing.assert_close(found, want.detach(), rtol=1e-4, atol=1e-5)
    assert (found.shape, found.dtype) == ((5, 3), torch.float32)
    assert torch.equal(views_bchw, before)  # which the student sees next


def test_the_teacher_does_not_move_and_the_student_learns_from_it(registered):
    teacher = load_teacher(registered, CLASSES, CPU, torch.float32, multi_label=False)
    before = {k: v.clone() for k, v in teacher.network.state_dict().items()}
    student = GraftTiny(num_classes=3)
    answers = teacher.logits(torch.randn(4, 3, 24, 24), SPEC)
    loss = DistillationLoss(0.5, 4.0, nn.CrossEntropyLoss(), multi_label=False)
    loss(student(torch.randn(4, 3, 24, 24)), answers, torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.network.parameters())
    assert not answers.requires_grad
    assert not answers.is_inference()  # which a loss could not keep for its gradient
    after = teacher.network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_in_bfloat16_the_answers_are_close_and_float32(registered):
    torch.manual_seed(3)
    views_bchw = torch.randn(4, 3, 24, 24)
    exact = load_teacher(registered, CLASSES, CPU, torch.float32, multi_label=False).logits(
        views_bchw, SPEC
    )
    network = GraftTiny(num_classes=3)
    network.load_state_dict(
        load_teacher(
            registered, CLASSES, CPU, torch.float32, multi_label=False
        ).network.state_dict()
    )
    rough = Teacher(network, SPEC, CPU, torch.bfloat16).logits(views_bchw, SPEC)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("blue", "green", "yellow"), "it lacks 'yellow' and the data has no 'red'"),
        (("blue", "green"), "the data has no 'red'"),
        (("blue", "green", "red", "w", "x", "y", "z"), "it lacks 'w', 'x', 'y' and 1 more"),
        (("green", "blue", "red"), "the same names in another order"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(registered, classes, words):
    with pytest.raises(ConfigError) as caught:
        load_teacher(registered, classes, CPU, torch.float32, multi_label=False)
    message = str(caught.value)
    assert words in message
    assert "models:/big/7" in message
    assert len(message.splitlines()) == 2


def test_a_teacher_of_another_kind_is_refused(registered):
    several = registered.model_copy(update={"multi_label": True})
    with pytest.raises(ConfigError, match="any number of labels, and the data one label"):
        load_teacher(several, CLASSES, CPU, torch.float32, multi_label=False)
