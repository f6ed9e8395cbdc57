"""Each strategy as a whole training, against what it should be made of."""

from __future__ import annotations

import itertools
import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tasks.evaluate.score import score
from tasks.finetune.train import finetune
from tasks.pretrained.network import build_network
from tasks.values import RegisteredModel


class Nobody:
    def step(self, progress) -> None:
        pass

    def epoch(self, record) -> None:
        pass


@pytest.fixture
def train(prepared, backbone, make_config, tmp_path):
    """Return a trainer of strategies: a config's sections in, model, weights and history out."""
    runs = iter(range(99))

    def run(strategy: dict, training: dict | None = None, data=prepared, teacher=None):
        # the backbone fixture's random weights stand for pretrained ones
        config = make_config(training={"choose": "last"} | (training or {}))
        kind = type(config.strategy).model_validate(strategy)
        config = config.model_copy(update={"strategy": kind})
        folder = tmp_path / f"run{next(runs)}"
        folder.mkdir()
        model = finetune(config, data, backbone, folder, Nobody(), teacher)
        history = [json.loads(line) for line in model.history.read_text().splitlines()]
        return model, load_file(model.weights), history

    return run


def start(backbone) -> dict[str, torch.Tensor]:
    return build_network(backbone, 3, 0).state_dict()


def moved(before, after) -> float:
    return sum(float((after[k] - v).square().sum()) for k, v in before.items() if k[:2] != "fc")


def test_lp_ft_begins_as_a_linear_probe(train, backbone):
    _, probed, probe = train({"kind": "linear_probe"}, {"epochs": 2})
    _, both, history = train({"kind": "lp_ft"}, {"epochs": 4})
    for ours, theirs in zip(history[:2], probe, strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-6)
    assert moved(start(backbone), probed) == 0
    assert moved(start(backbone), both) > 0


def test_gradual_unfreezing_ends_with_all_moving(train, backbone):
    _, _, probe = train({"kind": "linear_probe"}, {"epochs": 1, "schedule": "constant"})
    _, weights, history = train({"kind": "gradual_unfreeze"}, {"epochs": 3})
    assert history[0]["val_loss"] == pytest.approx(probe[0]["val_loss"], abs=1e-6)
    before = start(backbone)
    still = [n for n, v in before.items() if v.is_floating_point() and torch.equal(v, weights[n])]
    assert still == []
    # at its first stage it has moved for one epoch only, the top for two
    _, short, _ = train({"kind": "gradual_unfreeze"}, {"epochs": 2})
    assert {n for n in before if torch.equal(before[n], short[n])} == set()


def test_an_average_of_the_steps_is_saved(train, backbone):
    whole = {"batch_size": 61}
    one = train({"kind": "full"}, whole | {"epochs": 1})[1]
    two = train({"kind": "full"}, whole | {"epochs": 2})[1]
    averaged = train({"kind": "ema", "ema_decay": 0.2}, whole | {"epochs": 2})[1]
    for name, before in start(backbone).items():
        if not before.is_floating_point():
            continue
        first, second = min(0.2, 2 / 11), min(0.2, 3 / 12)
        after_one = first * before + (1 - first) * one[name]
        expected = second * after_one + (1 - second) * two[name]
        torch.testing.assert_close(averaged[name], expected, rtol=1e-4, atol=1e-5)


def test_wise_ft_is_between_the_probe_and_the_end(train):
    probed = train({"kind": "linear_probe"}, {"epochs": 2})[1]
    tuned = train({"kind": "lp_ft"}, {"epochs": 4})[1]
    model, weights, _ = train({"kind": "wise_ft", "wise_ft": 0.25}, {"epochs": 4})
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            expected = 0.75 * probed[name] + 0.25 * tuned[name]
            torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-4)
    assert "0.25" in model.notes[0]


def test_a_search_is_no_worse_than_either_end(train):
    model, _, history = train({"kind": "wise_ft"}, {"epochs": 4, "learning_rate": 0.05})
    assert model.val_accuracy >= max(history[1]["val_accuracy"], history[3]["val_accuracy"])


def test_a_soup_is_no_worse_than_its_best_part(train):
    model, weights, history = train({"kind": "soup", "soup": 2}, {"learning_rate": 0.05})
    assert [line["epoch"] for line in history] == [1, 2, 3, 4]
    assert model.val_accuracy >= max(history[1]["val_accuracy"], history[3]["val_accuracy"])
    alone = train({"kind": "full"}, {"learning_rate": 0.05})[1]
    members = int(model.notes[0].split()[2])
    same = all(torch.equal(weights[name], alone[name]) for name in weights)
    assert members in (1, 2)
    assert not (members == 2 and same)


def test_l2_sp_holds_the_backbone_near_its_start(train, backbone):
    _, free, _ = train({"kind": "full"}, {"epochs": 3})
    _, held, _ = train({"kind": "l2_sp", "l2_sp": 20.0}, {"epochs": 3})
    names = dict(build_network(backbone, 3, 0).named_parameters())
    before = {n: p.detach() for n, p in names.items()}
    assert moved(before, held) < moved(before, free) / 4


def test_views_that_no_kind_keeps_are_spoken_of_once(train, caplog):
    views = {"augment": "flip", "feature_views": 1, "epochs": 2}
    for strategy, recipe, times in (
        ({"kind": "soup", "soup": 2}, views, 1),
        ({"kind": "lp_ft"}, views, 0),  # its first phase would keep them, for more epochs than one
        ({"kind": "full"}, {"epochs": 1}, 0),
    ):
        caplog.clear()
        with caplog.at_level("INFO"):
            train(strategy, recipe)
        said = f"features are not cached: strategy.kind={strategy['kind']} freezes no stage"
        assert caplog.text.count(said) == caplog.text.count("freezes no stage") == times


def test_lora_changes_weights_by_a_matrix_of_low_rank(train, backbone, caplog):
    with caplog.at_level(logging.INFO, "tasks.finetune"):
        _, weights, _ = train({"kind": "lora", "lora_rank": 2}, {"learning_rate": 0.1})
    (line,) = [line for line in caplog.messages if line.startswith("features are not cached")]
    assert "strategy.kind=lora" in line
    before = start(backbone)
    assert weights.keys() == before.keys()
    ranks = {}
    for name, tensor in before.items():
        change = (weights[name].double() - tensor.double()).flatten(1) if tensor.ndim > 1 else None
        if change is not None and not name.startswith("fc"):
            ranks[name] = int(np.linalg.matrix_rank(change.numpy(), tol=1e-4))
        elif change is None and not name.startswith("fc"):
            assert torch.equal(weights[name], tensor), name  # batch norm, statistics included
    assert set(ranks.values()) <= {0, 1, 2}
    assert max(ranks.values()) == 2


def test_a_teacher_alone_is_learnt_whatever_the_labels(train, prepared, tmp_path):
    taught, _, _ = train({"kind": "full"}, {"epochs": 4, "learning_rate": 0.05})
    teacher = RegisteredModel(
        uri="models:/teacher/1",
        name="teacher",
        version=1,
        architecture=taught.architecture,
        classes=taught.classes,
        input=taught.input,
        weights=taught.weights,
        sha256=taught.sha256,
    )
    path = tmp_path / "wrong.npy"
    np.save(path, np.load(prepared.train.labels)[::-1].copy())
    wrong = prepared.model_copy(
        update={"train": prepared.train.model_copy(update={"labels": path})}
    )
    strategy = {"kind": "distill", "teacher": "models:/teacher/1", "distill_weight": 1.0}
    recipe = {"epochs": 3, "learning_rate": 0.02}
    model, ours, _ = train(strategy, recipe, teacher=teacher)
    assert model.teacher_sha256 == teacher.sha256  # whose images count for the gate
    _, others, _ = train(strategy, recipe, data=wrong, teacher=teacher)
    assert all(torch.equal(ours[name], others[name]) for name in ours)
    mixed = strategy | {"distill_weight": 0.5}
    _, other_labels, _ = train(mixed, recipe, data=wrong, teacher=teacher)
    assert not torch.equal(ours["fc.weight"], other_labels["fc.weight"])
    assert model.val_accuracy > 0.6


def test_stages_nearer_the_input_move_less(train, backbone):
    _, weights, _ = train({"kind": "discriminative", "layer_decay": 0.01}, {"epochs": 1})
    before = {n: p.detach() for n, p in build_network(backbone, 3, 0).named_parameters()}
    moves = []
    for stage in backbone.stages:
        names = [n for n in before if any(n.startswith(f"{part}.") for part in stage)]
        moves.append(max(float((weights[n] - before[n]).abs().max()) for n in names))
    assert all(lower < upper / 10 for lower, upper in itertools.pairwise(moves))


def test_batches_that_are_joined_are_one_large_batch(train):
    # of frozen features, since batch norm would see other batches
    _, joined, _ = train({"kind": "linear_probe"}, {"batch_size": 20, "accumulate": 3})
    _, large, _ = train({"kind": "linear_probe"}, {"batch_size": 60})
    for name, tensor in large.items():
        torch.testing.assert_close(joined[name], tensor, rtol=1e-4, atol=1e-6)


def test_training_stops_early_when_nothing_gets_better(train):
    recipe = {"epochs": 9, "early_stopping": 2, "learning_rate": 1e-30, "augment": "none"}
    model, _, history = train({"kind": "linear_probe"}, recipe)
    assert len(history) == 3
    assert model.epochs == 3
    assert "stopped early" in model.notes[-1]


def test_a_later_phase_has_its_own_patience(train):
    # the head's epochs at no rate to speak of do not count against the rest of the network
    recipe = {"epochs": 8, "early_stopping": 2, "learning_rate": 1e-30, "choose": "best"}
    _, _, history = train({"kind": "lp_ft", "probe_epochs": 5}, recipe)
    assert len(history) in (7, 8)  # the first epoch of all others may be better by a rounding


def test_a_soup_leaves_what_is_frozen_as_it_was(train, backbone):
    strategy = {"kind": "partial", "frozen_stages": 2, "soup": 2}
    _, weights, _ = train(strategy, {"learning_rate": 0.02, "epochs": 3})
    before = start(backbone)
    frozen = [name for stage in backbone.stages[:2] for name in stage]
    held = [n for n in before if any(n.startswith(f"{part}.") for part in frozen)]
    assert any("running_mean" in name for name in held)
    assert all(torch.equal(before[name], weights[name]) for name in held)


def test_the_best_epoch_is_the_best_of_all_phases(train):
    recipe = {"epochs": 4, "learning_rate": 0.05, "choose": "best"}
    for kind in ("lp_ft", "gradual_unfreeze"):
        model, _, history = train({"kind": kind}, recipe)
        best = max(line["val_accuracy"] for line in history)
        assert model.val_accuracy == best == history[model.chosen_epoch - 1]["val_accuracy"]


def test_cached_features_train_as_the_images_do(train, tmp_path):
    for strategy in ({"kind": "linear_probe"}, {"kind": "partial", "frozen_stages": 2}):
        _, cached, told = train(strategy, {"epochs": 3})
        _, plain, history = train(strategy, {"epochs": 3, "feature_cache": "off"})
        for ours, theirs in zip(told, history, strict=True):
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
            assert ours["val_accuracy"] == theirs["val_accuracy"]
        for name, tensor in plain.items():
            torch.testing.assert_close(cached[name], tensor, rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


@pytest.mark.parametrize(
    "strategy",
    [
        {"kind": "linear_probe"},
        {"kind": "partial", "frozen_stages": 2},
        {"kind": "lp_ft", "probe_epochs": 2},
    ],
)
def test_an_average_is_kept_and_scored_on_cached_features_as_on_images(
    train, strategy, prepared, backbone, tmp_path
):
    averaged = strategy | {"ema_decay": 0.9}
    recipe = {"epochs": 3, "precision": "float32", "learning_rate": 0.01}
    _, cached, told = train(averaged, recipe)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1
    _, plain, history = train(averaged, recipe | {"feature_cache": "off"})
    for ours, theirs in zip(told, history, strict=True):
        for name in ("train_loss", "val_loss", "val_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)
    network = build_network(backbone, 3, 0)
    network.load_state_dict(cached)  # what is saved is what was scored
    scores = score(network, prepared.val, prepared.input, torch.device("cpu"), 30, torch.float32)
    assert told[-1]["val_loss"] == pytest.approx(scores.log_loss, abs=1e-5)
    for name, tensor in plain.items():
        torch.testing.assert_close(cached[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_soup_of_short_trainings_runs_the_frozen_part_once(train, caplog):
    soup, recipe = {"kind": "linear_probe", "soup": 3}, {"epochs": 1}
    with caplog.at_level(logging.INFO, "tasks.finetune"):
        _, cached, told = train(soup, recipe)
    assert caplog.text.count("view(s) each in training") == 1
    assert caplog.text.count("images from the cache") == 2
    _, plain, history = train(soup, recipe | {"feature_cache": "off"})
    for ours, theirs in zip(told, history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
    for name, tensor in plain.items():
        torch.testing.assert_close(cached[name], tensor, rtol=1e-4, atol=1e-5)


def test_each_cut_of_a_gradual_unfreezing_is_kept_for_a_soup_alone(train, caplog):
    with caplog.at_level(logging.INFO, "tasks.finetune"):
        train({"kind": "gradual_unfreeze"}, {"epochs": 3})
        why = "features are not cached: 1 epoch(s) run the frozen part no more often than 1 view(s)"
        assert caplog.text.count(why) == 2
        assert "in training" not in caplog.text
        train({"kind": "gradual_unfreeze", "soup": 2}, {"epochs": 2})
    assert caplog.text.count("view(s) each in training") == 1
    assert caplog.text.count("images from the cache") == 1


@pytest.mark.parametrize(
    "training",
    [
        {"augment": "flip", "mixup": 0.2},
        {"augment": "crop_flip", "policy": "trivial_augment"},
        {"cutmix": 1.0, "random_erasing": 0.5, "label_smoothing": 0.1},
        {"balance": "class_weights", "policy": "rand_augment"},
        {"balance": "sampler", "schedule": "linear", "warmup_epochs": 0.5},
    ],
)
def test_recipes_learn_and_repeat_themselves(training, train):
    recipe = training | {"epochs": 4, "learning_rate": 0.05, "choose": "best"}
    model, weights, _ = train({"kind": "full"}, recipe)
    assert model.val_accuracy > 0.5
    _, again, _ = train({"kind": "full"}, recipe)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
