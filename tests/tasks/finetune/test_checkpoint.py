"""A training that is stopped and goes on ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import signal
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from tasks.artifacts import sha256_file
from tasks.errors import ConfigError
from tasks.finetune import hold, mixing, start
from tasks.finetune import keeper as keeper_module
from tasks.finetune import training as training_module
from tasks.finetune.progress import EpochRecord
from tasks.finetune.train import finetune
from tasks.finetune.tree_file import read_tree
from tasks.recipe import Kind
from tasks.values import FineTunedModel, RegisteredModel


class Stop(BaseException):
    pass


class Stopper:
    """A watcher that ends the process's work in the first step after ``epoch``.

    Or, an epoch and a batch given, by Ctrl-C in that batch, which is kept until its step is done.
    """

    def __init__(self, stop: int | tuple[int, int] | None = None) -> None:
        self.stop = stop
        self.seen: list[int] = []

    def step(self, progress) -> None:
        if isinstance(self.stop, int) and progress.epoch > self.stop:
            raise Stop
        if self.stop == (progress.epoch, progress.step):
            signal.raise_signal(signal.SIGINT)

    def epoch(self, record: EpochRecord) -> None:
        self.seen.append(record.epoch)


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """Write a checkpoint whatever it takes: these epochs take less; so do steps, if not always."""
    monkeypatch.setattr(keeper_module, "SPARED", 0.0)
    monkeypatch.setattr(hold, "GIVES_UP", 600.0)


@pytest.fixture
def runs(prepared, backbone, make_config, tmp_path: Path):
    """Return what trains a config whole, and stopped at each of ``stops`` in turn."""

    def run(stops: tuple[int | tuple[int, int], ...], teacher=None, **sections):
        strategy = sections.pop("strategy")
        config = make_config(**sections)
        kind = type(config.strategy).model_validate(strategy)
        # the fixture's random weights stand for pretrained ones, which the config does not know
        config = config.model_copy(update={"strategy": kind})
        whole = _fresh(tmp_path / "whole")
        model = finetune(config, prepared, backbone, whole, Stopper(), teacher)
        broken = _fresh(tmp_path / "broken")
        kept = broken / ".unfinished"
        kept.mkdir()
        seen: list[int] = []
        for stop in (*stops, None):
            watcher = Stopper(stop)
            torch.manual_seed(99)  # as another process would be
            with suppress(Stop, KeyboardInterrupt):
                again = finetune(config, prepared, backbone, broken, watcher, teacher, kept)
            seen += watcher.seen
            if isinstance(stop, tuple):
                assert written(kept)[:2] == (len(seen), stop[1])
        return model, again, seen

    return run


def written(kept: Path) -> tuple[int, int | None]:
    """Return after how many epochs the last checkpoint is, and after which batch of the next."""
    state = read_tree(kept, "checkpoint")["state"]
    return len(state["records"]), None if state["lap"] is None else state["lap"]["batches"]


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def assert_same(model: FineTunedModel, again: FineTunedModel, seen: list[int]) -> None:
    assert seen == list(range(1, model.epochs + 1))  # none lost, none doubled
    assert again.sha256 == model.sha256 == sha256_file(again.weights)
    own = {"folder", "weights", "history", "seconds", "images_per_second"}
    assert again.model_dump(exclude=own) == model.model_dump(exclude=own)
    timed = {"seconds", "images_per_second"}
    for one, other in zip(
        again.history.read_text().splitlines(), model.history.read_text().splitlines(), strict=True
    ):
        ours, theirs = json.loads(one), json.loads(other)
        assert {k: v for k, v in ours.items() if k not in timed} == {
            k: v for k, v in theirs.items() if k not in timed
        }


AUGMENTED = {"augment": "crop_flip", "policy": "trivial_augment", "mixup": 0.2}
# an epoch has 3 batches; after the last one validation is what is stopped
CASES = {
    "full": ({"kind": "full"}, {"epochs": 4, "schedule": "cosine", **AUGMENTED}, (1, (3, 2))),
    "adamw": ({"kind": "full"}, {"epochs": 3, "optimizer": "adamw", "accumulate": 2}, ((2, 2),)),
    "discriminative": ({"kind": "discriminative"}, {"epochs": 2}, (1, (2, 1))),
    "lora": ({"kind": "lora", "lora_rank": 2}, {"epochs": 3, "optimizer": "adamw"}, ((1, 3),)),
    "one_cycle": ({"kind": "full"}, {"epochs": 3, "schedule": "one_cycle"}, ((2, 1),)),
    "partial": ({"kind": "partial", "frozen_stages": 1}, {"epochs": 3}, (2, (3, 2))),
    "probe": ({"kind": "linear_probe"}, {"epochs": 4, "warmup_epochs": 1}, ((1, 2), 2)),
    "unfreeze": ({"kind": "gradual_unfreeze"}, {"epochs": 5}, ((2, 3), 4, (5, 1))),
    "lp_ft": ({"kind": "lp_ft", "probe_epochs": 2}, {"epochs": 4}, (1, (2, 1), (3, 2))),
    "wise_ft": ({"kind": "wise_ft", "probe_epochs": 1, "wise_ft": 0.5}, {"epochs": 3}, (1, (3, 1))),
    "ema": ({"kind": "ema", "ema_decay": 0.9}, {"epochs": 3, "schedule": "linear"}, ((2, 2),)),
    "soup": ({"kind": "soup", "soup": 2}, {"epochs": 2}, ((1, 1), 2, (4, 2))),
    "l2_sp": ({"kind": "l2_sp", "l2_sp": 0.01}, {"epochs": 3}, ((2, 2),)),
    "bfloat16": ({"kind": "full"}, {"epochs": 3, "precision": "bfloat16"}, (2, (3, 1))),
    "balanced": ({"kind": "scratch"}, {"epochs": 3, "balance": "sampler"}, ((2, 1),)),
    "cutmix": (
        {"kind": "full"},
        {"epochs": 2, "cutmix": 1.0, "random_erasing": 0.5},
        ((2, 1), (2, 2)),
    ),
    "views": (
        {"kind": "linear_probe"},
        {"epochs": 3, "augment": "flip", "feature_views": 2},
        (1, (2, 2)),
    ),
}


def test_no_strategy_is_left_out():
    held = {strategy["kind"] for strategy, *_ in CASES.values()}
    assert held | {"distill"} == set(get_args(Kind))  # that one has a test of its own


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_an_unbroken_training(case, runs):
    strategy, training, stops = CASES[case]
    assert_same(*runs(stops, strategy=strategy, training=training))


@pytest.mark.parametrize(
    ("where", "place"),
    [("_validate", (1, 3)), ("_record", (2, None))],
    ids=["in validation", "at an epoch's end"],
)
def test_a_stop_out_of_the_steps_loses_none_of_them(where, place, runs, monkeypatch, tmp_path):
    """Of the last epoch, whose end needs no checkpoint else: the next is over before it begins."""
    calls, before = [], getattr(training_module, where)

    def stopped_once(*given):
        calls.append(given)
        if len(calls) == 4:  # the unbroken training has two epochs
            signal.raise_signal(signal.SIGINT)
        return before(*given)

    monkeypatch.setattr(training_module, where, stopped_once)
    assert_same(*runs((9,), strategy={"kind": "full"}, training={"epochs": 2}))
    assert written(tmp_path / "broken" / ".unfinished") == place


def test_a_long_epoch_has_checkpoints_before_its_end(runs, monkeypatch, tmp_path):
    """What is killed goes on from there: here it ends by an exception, without being asked."""
    monkeypatch.setattr(keeper_module, "WITHIN", 0.0)
    places = []

    def step(self, progress) -> None:
        if self.stop == 9 and (progress.epoch, progress.step) == (2, 3):
            places.append(written(tmp_path / "broken" / ".unfinished"))
            raise Stop

    monkeypatch.setattr(Stopper, "step", step)
    training = {"epochs": 2, "accumulate": 2, **AUGMENTED}
    assert_same(*runs((9,), strategy={"kind": "full"}, training=training))
    assert places == [(1, 2)]  # the optimiser moves at every other batch


def test_muon_goes_on_as_if_it_had_not_been_stopped(runs, monkeypatch):
    """Its network has what graft_tiny has not: a matrix below the head."""

    def network(_, classes: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        named = {"stem": nn.Conv2d(3, 4, 4, 4), "flat": nn.Flatten(), "stage": nn.Linear(64, 8),
                 "bend": nn.GELU(), "fc": nn.Linear(8, classes)}  # fmt: skip
        return nn.Sequential(OrderedDict(named))

    monkeypatch.setattr(start, "build_network", network)
    training = {"epochs": 3, "optimizer": "muon", "schedule": "cosine"}
    assert_same(*runs((1, (2, 3)), strategy={"kind": "full"}, training=training))


def test_what_is_mixed_after_the_last_epoch_needs_no_epoch_again(runs, monkeypatch):
    calls, before = [], mixing.wise_ft

    def stopped_once(*given):
        calls.append(given)
        if len(calls) == 2:  # the first is the unbroken training's
            raise Stop
        return before(*given)

    monkeypatch.setattr(mixing, "wise_ft", stopped_once)
    strategy = {"kind": "wise_ft", "probe_epochs": 1, "wise_ft": 0.5}
    assert_same(*runs((9,), strategy=strategy, training={"epochs": 3}))
    assert len(calls) == 3


def test_a_training_that_stops_early_does_so_at_the_same_epoch(runs):
    training = {"epochs": 30, "early_stopping": 2, "learning_rate": 1e-6}
    model, again, seen = runs((2, (3, 1)), strategy={"kind": "full"}, training=training)
    assert model.epochs < 30
    assert_same(model, again, seen)


def test_dropout_goes_on_where_it_was(prepared, make_config, tmp_path, monkeypatch, runs):
    """The network has none, so the global dice are looked at themselves."""
    drawn: list[list[float]] = []
    before = training_module.train_epoch

    def drawing(*given):
        drawn.append(torch.rand(3).tolist())
        return before(*given)

    monkeypatch.setattr(training_module, "train_epoch", drawing)
    runs((1, 2), strategy={"kind": "full"}, training={"epochs": 3})
    whole, broken = drawn[:3], drawn[3:]
    # epoch 1, epoch 2 which is stopped at its first step, and so on
    assert broken == [whole[0], whole[1], whole[1], whole[2], whole[2]]


def test_a_checkpoint_of_other_images_is_refused(prepared, backbone, make_config, tmp_path):
    config, kept = make_config(), tmp_path / "run" / ".unfinished"
    kept.mkdir(parents=True)
    with pytest.raises(Stop):
        finetune(config, prepared, backbone, tmp_path / "run", Stopper(1), None, kept)
    other = prepared.model_copy(update={"digest": "0" * 64})
    with pytest.raises(ConfigError, match="is of another data"):
        finetune(config, other, backbone, tmp_path / "run", Stopper(), None, kept)


def test_no_checkpoint_is_written_that_nothing_could_need(
    prepared, backbone, make_config, tmp_path
):
    kept = tmp_path / "run" / ".unfinished"
    kept.mkdir(parents=True)
    config = make_config(training={"epochs": 1})
    finetune(config, prepared, backbone, tmp_path / "run", Stopper(), None, kept)
    assert not list(kept.iterdir())


def test_a_pupil_goes_on_learning(runs, backbone, prepared, make_config, tmp_path):
    folder = _fresh(tmp_path / "teacher")
    taught = finetune(make_config(), prepared, backbone, folder, Stopper())
    teacher = RegisteredModel(
        uri="models:/t/1", name="t", version=1, architecture=taught.architecture,
        classes=taught.classes, input=taught.input, weights=taught.weights, sha256=taught.sha256,
    )  # fmt: skip
    strategy = {"kind": "distill", "teacher": "models:/t/1"}
    training = {"epochs": 3, "augment": "crop"}
    assert_same(*runs((1,), teacher, strategy=strategy, training=training))
