"""Whole trainings and scorings for which memory does not suffice end with the same numbers."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

from tasks.errors import ResourceError
from tasks.evaluate.scorer import open_scorer
from tasks.finetune import keeper as keeper_module
from tasks.finetune.distill import Teacher
from tasks.finetune.feature_pass import FeaturePass, evaluation_view
from tasks.finetune.progress import EpochRecord
from tasks.finetune.train import finetune
from tasks.pretrained import architectures
from tasks.pretrained.load import load_pretrained
from tasks.recipe import StrategyConfig
from tests.tasks.finetune.short_memory import Memory, Normed, Plain


class Watcher:
    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.steps, self.epochs = stop_after, 0, list[EpochRecord]()

    def step(self, progress) -> None:
        self.steps += 1
        if self.stop_after is not None and progress.epoch > self.stop_after:
            raise KeyboardInterrupt

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)


@pytest.fixture
def train(prepared, make_config, tmp_path, memory):
    """Return what trains in a folder of its own; three batches of 25, 25 and 11 an epoch."""

    def run(name: str, strategy: dict[str, object] | None = None, stop=None, **training: object):
        folder = tmp_path / name
        kept = folder / ".unfinished"
        kept.mkdir(parents=True, exist_ok=True)
        given = {"batch_size": 25, "choose": "last", "learning_rate": 0.05} | training
        config = make_config(training=given)
        if strategy:  # the random weights stand for pretrained ones
            config = config.model_copy(update={"strategy": StrategyConfig(**strategy)})
        backbone = load_pretrained(config, prepared.classes, None, tmp_path / "cache")
        watcher = Watcher(stop)
        return finetune(config, prepared, backbone, folder, watcher, None, kept), watcher

    return run


CASES = {
    "sgd": ({}, {}, {"forward_fits": 13}),
    "adamw": ({}, {"optimizer": "adamw", "learning_rate": 0.001}, {"backward_fits": 6}),
    "weighted, clipped": (
        {},
        {
            "balance": "class_weights", "label_smoothing": 0.1, "gradient_clip": 0.05,
            "schedule": "cosine",
        },
        {"backward_fits": 24},
    ),
    "accumulated": (
        {"kind": "ema", "ema_decay": 0.9},
        {"accumulate": 2, "batch_size": 10},
        {"backward_fits": 9},
    ),
    "penalised": ({"kind": "l2_sp", "l2_sp": 0.1}, {"accumulate": 3}, {"backward_fits": 8}),
    "mixed, one by one": (
        {},
        {"mixup": 0.3, "cutmix": 0.5, "augment": "crop_flip", "batch_size": 7, "epochs": 1},
        {"forward_fits": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_whole_batches(case, train, memory):
    strategy, training, fits = CASES[case]
    whole, undisturbed = train("whole", strategy, **training)
    memory(**fits)
    model, watcher = train("parts", strategy, **training)
    assert 0 < Memory.failures < 6  # found once, by halving
    assert watcher.steps == undisturbed.steps
    for one, other in zip(watcher.epochs, undisturbed.epochs, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-6)
        assert one.train_accuracy == other.train_accuracy
        assert one.learning_rate == other.learning_rate
    ours = load_file(model.weights)
    for name, tensor in load_file(whole.weights).items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6, msg=name)
    (note,) = model.notes
    assert "the same update" in note
    assert whole.notes == ()


def test_one_image_that_does_not_fit_ends_it(train, memory):
    memory(backward_fits=0)
    with pytest.raises(ResourceError, match="with 1 image") as caught:
        train("none")
    assert caught.value.exit_code == 8
    assert len(str(caught.value).splitlines()) == 2
    assert Memory.failures == 6  # 25, 13, 7, 4, 2, 1


def test_a_training_that_goes_on_knows_what_fits(train, memory, monkeypatch):
    monkeypatch.setattr(keeper_module, "SPARED", 0.0)
    monkeypatch.setattr(architectures, "GraftTiny", Normed)
    memory(backward_fits=8)
    whole, _ = train("whole")
    with suppress(KeyboardInterrupt):
        train("broken", stop=1)
    Memory.failures = 0
    again, _ = train("broken")
    assert Memory.failures == 0
    assert again.sha256 == whole.sha256  # dropout and statistics included
    (note,) = again.notes
    assert again.notes == whole.notes
    assert again.repeatable == whole.repeatable
    assert "memory ran out" in str(again.repeatable)
    assert "25 images at once" in note
    assert "parts of at most 7" in note
    assert "batch norm over each part alone" in note


def test_a_validation_goes_through_in_parts(train, memory, caplog):
    whole, _ = train("whole")
    memory(scored_fit=7)
    with caplog.at_level(logging.INFO):
        model, _ = train("parts")
    assert caplog.text.count("memory ran out with 30 images at once") == 1
    assert Memory.failures == 3  # 30, 15, 8
    assert (model.sha256, model.val_accuracy) == (whole.sha256, whole.val_accuracy)
    assert model.val_loss == pytest.approx(whole.val_loss, abs=1e-6)


def test_features_are_made_in_parts(prepared, memory):
    passed = FeaturePass(Plain(3).eval(), torch.device("cpu"), torch.float32, 40)
    view = evaluation_view(prepared.input)
    whole = torch.cat(list(passed.over(prepared.train, view, 1)))
    memory(scored_fit=16)
    parts = torch.cat(list(passed.over(prepared.train, view, 2)))
    torch.testing.assert_close(parts, torch.cat((whole, whole)))
    assert Memory.failures == 2  # 40, 20


def test_a_teacher_answers_in_parts(prepared, memory):
    teacher = Teacher(Plain(3), prepared.input, torch.device("cpu"), torch.float32)
    views_bchw = torch.randn(9, 3, 16, 16)
    whole = teacher.logits(views_bchw, prepared.input)
    memory(scored_fit=2)
    for _ in range(2):
        torch.testing.assert_close(teacher.logits(views_bchw, prepared.input), whole)
    assert Memory.failures == 3  # 9, 5, 3


def test_a_model_is_scored_in_parts(train, memory, prepared, make_config):
    model, _ = train("whole", epochs=1)
    wanted_n = torch.arange(33).numpy() % 2 == 0
    found = []
    for fits in (64, 7):
        memory(scored_fit=fits)
        with open_scorer(make_config(), model) as scorer:
            found.append(scorer.score_with_features(prepared.test, wanted_n))
    assert scorer.fitting == 5
    (scores, features), (fewer, again) = found
    torch.testing.assert_close(again, features)
    assert fewer.log_loss == pytest.approx(scores.log_loss)
    memory(scored_fit=0)
    with open_scorer(make_config(), model) as scorer, pytest.raises(ResourceError, match="one im"):
        scorer.score(prepared.test)
