"""The range test with a run's own network: its rates, its files, and whether they are any good."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.config import RunConfig
from tasks.download.source import download
from tasks.errors import TrainingError
from tasks.finetune import lr_find, lr_range
from tasks.finetune.loop import Trainer
from tasks.finetune.lr_find import LrFinding, find_learning_rate
from tasks.finetune.train import finetune
from tasks.preprocess.prepare import prepare
from tasks.pretrained.load import input_spec, load_pretrained


class Nobody:
    def step(self, progress) -> None: ...

    def epoch(self, record) -> None: ...


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take 30 steps, where it does not matter that there are more."""
    monkeypatch.setattr(lr_range, "STEPS", 30)


@pytest.fixture
def rates_of(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Return the rate of every group of the optimiser at every step, as it was when it moved."""
    seen: list[dict[str, float]] = []
    move = Trainer._move

    def moved(self: Trainer) -> None:
        seen.append({group["name"]: group["lr"] for group in self.optimizer.param_groups})
        move(self)

    monkeypatch.setattr(Trainer, "_move", moved)
    return seen


@pytest.mark.usefixtures("short")
def test_files_and_values_say_the_same_and_nothing_trained_is_kept(
    prepared, make_config, backbone, tmp_path: Path
):
    for split in (prepared.val, prepared.test):
        split.images.unlink()
    folder = tmp_path / "out"
    folder.mkdir()
    found = find_learning_rate(make_config(), prepared, backbone, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"lr_find.json", "lr_find.png", "lr_find.svg"}
    assert LrFinding.model_validate_json((folder / "lr_find.json").read_text()) == found
    assert json.loads((folder / "lr_find.json").read_text())["valley"] == found.valley
    assert found.valley in found.rates
    assert found.steep in found.rates
    assert found.head_learning_rate is None
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= 30


@pytest.mark.usefixtures("short")
def test_the_same_seed_gives_the_same_losses(prepared, make_config, backbone, tmp_path: Path):
    recipe = {"augment": "crop_flip", "threads": 1}
    runs = [make_config(seed=seed, training=recipe) for seed in (0, 0, 1)]
    found = [find_learning_rate(run, prepared, backbone, tmp_path) for run in runs]
    assert found[0] == found[1]
    assert found[0].losses != found[2].losses


@pytest.mark.usefixtures("short")
def test_head_and_stages_keep_their_ratio_whatever_the_schedule(
    prepared, make_config, backbone, tmp_path: Path, rates_of
):
    training = {
        "learning_rate": 0.01,
        "head_learning_rate": 0.1,
        "schedule": "one_cycle",
        "epochs": 2,
    }
    strategy = {"kind": "full", "layer_decay": 0.5}
    config = make_config(training=training)
    config = config.model_copy(update={"strategy": type(config.strategy).model_validate(strategy)})
    found = find_learning_rate(config, prepared, backbone, tmp_path)
    assert len(rates_of) in (len(found.rates), len(found.rates) + 1)  # a last loss may be no number
    for rate, groups in zip(found.rates, rates_of, strict=False):
        assert groups["head"] == pytest.approx(10 * rate)
        assert groups["stage 4"] == pytest.approx(rate)
        assert groups["stage 1"] == pytest.approx(rate / 8)
    assert found.head_learning_rate == pytest.approx(10 * found.valley)


@pytest.mark.usefixtures("short")
def test_a_step_may_join_several_batches(prepared, make_config, backbone, tmp_path: Path, rates_of):
    run = make_config(training={"batch_size": 10, "accumulate": 3})
    found = find_learning_rate(run, prepared, backbone, tmp_path)
    assert len(rates_of) in (len(found.rates), len(found.rates) + 1)


@pytest.mark.usefixtures("short")
def test_only_what_the_strategy_trains_moves(
    prepared, make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = make_config(
        model={"weights": "graft:tiny-cifar10"}, strategy={"kind": "partial", "frozen_stages": 2}
    )
    backbone = load_pretrained(config, prepared.classes, None, tmp_path / "cache")
    kept: list[Trainer] = []
    build = lr_find.build_trainer
    monkeypatch.setattr(
        lr_find, "build_trainer", lambda *given: kept.append(build(*given)) or kept[-1]
    )
    find_learning_rate(config, prepared, backbone, tmp_path)
    from safetensors.torch import load_file

    before, after = load_file(backbone.weights), kept[0].network.state_dict()
    same = {
        name for name, tensor in before.items() if torch.equal(tensor, after[name].contiguous())
    }
    frozen = {name for name in before if name.startswith(("stem.", "stage1."))}
    assert same >= frozen
    assert not any(name.startswith(("stage2.", "stage3.")) and "conv" in name for name in same)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", ["lp_ft", "gradual_unfreeze"])
def test_the_phases_before_the_last_are_trained_first_as_the_run_would(
    kind, prepared, make_config, tmp_path: Path, rates_of, caplog, monkeypatch
):
    monkeypatch.setattr(lr_find, "plot_finding", lambda *_: None)  # it is drawn elsewhere
    recipe = {"epochs": 4, "learning_rate": 0.05, "schedule": "linear", "threads": 1}
    weights = {"model": {"weights": "graft:tiny-cifar10"}, "training": recipe}
    config = make_config(**weights, strategy={"kind": kind})
    backbone = load_pretrained(config, prepared.classes, None, tmp_path / "cache")
    with caplog.at_level("INFO", "tasks.finetune.lr_find"):
        found = find_learning_rate(config, prepared, backbone, tmp_path)
    epochs = {"lp_ft": 2, "gradual_unfreeze": 3}[kind]
    assert f"the {epochs} epoch(s) before it are trained first" in caplog.text
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == epochs
    steps = len(rates_of) - len(found.rates)
    before = [groups["head"] for groups in rates_of[: steps - 1]]
    assert before[0] == pytest.approx(0.05)  # by the schedule of the config, down from there
    assert before == sorted(before, reverse=True)
    assert before[-1] < before[0]
    if kind == "gradual_unfreeze":
        return
    full = make_config(**weights, strategy={"kind": "full"})
    whole = find_learning_rate(full, prepared, backbone, tmp_path / "whole")
    assert found.losses[0] < 0.9 * whole.losses[0]  # the head has learnt already
    assert find_learning_rate(config, prepared, backbone, tmp_path) == found


def test_a_loss_that_grows_from_the_start_is_explained(
    prepared, make_config, backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Trainer, "step", lambda *_: (torch.tensor(float("nan")), torch.tensor(0)))
    with pytest.raises(TrainingError, match="out of hand") as caught:
        find_learning_rate(make_config(), prepared, backbone, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_on_digits_the_suggestion_trains_better_than_far_smaller_or_larger_rates(tmp_path: Path):
    config = RunConfig.model_validate(
        {
            "data": {"kind": "digits", "val_fraction": 0.2, "test_fraction": 0.6},
            "preprocess": {"resize": 16, "crop": 16},
            "model": {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"},
            "training": {"epochs": 3, "batch_size": 32, "precision": "float32"},
        }
    )
    cache = tmp_path / "cache"
    raw = download(config.data, cache)
    spec = input_spec(config.model, config.preprocess)
    images = prepare(config.data, config.seed, raw, spec, cache)
    backbone = load_pretrained(config, images.classes, None, cache)
    found = find_learning_rate(config, images, backbone, tmp_path)

    def loss_of(rate: float) -> float:
        recipe = config.training.model_copy(update={"learning_rate": rate})
        run = config.model_copy(update={"training": recipe})
        try:
            return finetune(run, images, backbone, tmp_path, Nobody()).val_loss
        except TrainingError:  # it diverged
            return np.inf

    suggested = loss_of(found.valley)
    assert suggested < 0.5 * loss_of(found.valley / 100)
    assert suggested < 0.5 * loss_of(found.valley * 100)
