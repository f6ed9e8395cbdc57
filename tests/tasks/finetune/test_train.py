"""Fine-tuning against a plain PyTorch loop, and what each strategy may move."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tasks.errors import ConfigError, ResourceError, TrainingError
from tasks.finetune.optimizer import build_optimizer
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.schedule import build_schedule
from tasks.finetune.strategy import frozen_names
from tasks.finetune.train import finetune
from tasks.preprocess.batches import PackedImages, shuffled
from tasks.preprocess.views import eval_view
from tasks.pretrained.load import load_pretrained
from tasks.pretrained.network import build_network
from tasks.recipe import StrategyConfig


class Recorder:
    def __init__(self) -> None:
        self.steps: list[StepProgress] = []
        self.epochs: list[EpochRecord] = []

    def step(self, progress: StepProgress) -> None:
        self.steps.append(progress)

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)


def plain_loop(config, prepared, backbone) -> dict[str, torch.Tensor]:
    """Write the recipe out as a tutorial would."""
    network = build_network(backbone, len(prepared.classes), config.seed)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = np.fromfile(prepared.train.images, dtype=np.uint8).reshape(-1, 16, 16, 3)
    labels = torch.from_numpy(np.load(prepared.train.labels))
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.training.epochs):
        order = torch.randperm(len(labels), generator=generator)[:60]  # 61 = 3 x 20 + 1
        network.train()
        for rows in order.split(20):
            x = torch.from_numpy(images[rows.numpy()]).permute(0, 3, 1, 2).float() / 255
            x = (x - torch.tensor(prepared.input.mean).view(3, 1, 1)) / torch.tensor(
                prepared.input.std
            ).view(3, 1, 1)
            x = x.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), labels[rows]).backward()
            optimizer.step()
    return network.state_dict()


def test_full_training_is_the_plain_loop(prepared, backbone, make_config, tmp_path):
    config = make_config(training={"choose": "last"})
    model = finetune(config, prepared, backbone, tmp_path, Recorder())
    ours, plain = load_file(model.weights), plain_loop(config, prepared, backbone)
    assert ours.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_it_learns_and_keeps_the_best_epoch(prepared, backbone, make_config, tmp_path):
    watcher = Recorder()
    config = make_config(training={"epochs": 6, "learning_rate": 0.05})
    model = finetune(config, prepared, backbone, tmp_path, watcher)
    best = max(record.val_accuracy for record in watcher.epochs)
    assert model.val_accuracy == best == watcher.epochs[model.chosen_epoch - 1].val_accuracy
    assert best > 0.8
    lines = [json.loads(line) for line in model.history.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert len(watcher.steps) == 6 * 3
    assert watcher.steps[-1].seconds_left == pytest.approx(0, abs=0.05)


def test_the_same_seed_gives_the_same_weights(prepared, backbone, make_config, tmp_path):
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        config = make_config(training={"augment": "crop_flip"}, seed=seed)
        digests.append(finetune(config, prepared, backbone, tmp_path / name, Recorder()).sha256)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("strategy", "stages"),
    [
        ({"kind": "full"}, 0),
        ({"kind": "partial", "frozen_stages": 1}, 1),
        ({"kind": "partial", "frozen_stages": 2}, 2),
        ({"kind": "linear_probe"}, None),
    ],
)
def test_only_the_right_tensors_move(strategy, stages, prepared, backbone, make_config, tmp_path):
    before = build_network(backbone, 3, 0).state_dict()
    # the backbone fixture is random; for freezing it stands for a pretrained one
    config = make_config(training={"epochs": 2, "choose": "last", "learning_rate": 0.5})
    config = config.model_copy(
        update={"strategy": config.strategy.model_copy(update={"frozen_stages": 0} | strategy)}
    )
    model = finetune(config, prepared, backbone, tmp_path, Recorder())
    after = load_file(model.weights)
    frozen = tuple(n for stage in backbone.stages[:stages] for n in stage)
    for name, tensor in before.items():
        held = any(name == f or name.startswith(f + ".") for f in frozen)
        assert torch.equal(tensor, after[name]) == held, name
    trainable = sum(
        p.numel()
        for name, p in build_network(backbone, 3, 0).named_parameters()
        if not any(name == f or name.startswith(f + ".") for f in frozen)
    )
    assert model.trainable_parameters == trainable


def test_more_stages_than_there_are(backbone, make_config):
    config = make_config()
    strategy = config.strategy.model_copy(update={"kind": "partial", "frozen_stages": 99})
    with pytest.raises(ConfigError, match="graft_tiny has"):
        frozen_names(strategy, backbone)


def test_a_loss_that_is_not_finite(prepared, backbone, make_config, tmp_path):
    config = make_config(training={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match="learning_rate"):
        finetune(config, prepared, backbone, tmp_path, Recorder())
    assert not (tmp_path / "model.safetensors").exists()


def test_a_gpu_that_is_not_there(prepared, backbone, make_config, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = make_config(training={"device": "cuda"})
    with pytest.raises(ResourceError, match=r"training\.device"):
        finetune(config, prepared, backbone, tmp_path, Recorder())


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_schedules(schedule, prepared, backbone, make_config, tmp_path):
    watcher = Recorder()
    config = make_config(training={"schedule": schedule, "epochs": 4})
    finetune(config, prepared, backbone, tmp_path, watcher)
    rates = [record.learning_rate for record in watcher.epochs]
    steps = 4 * 3
    if schedule == "constant":
        assert rates == [0.01] * 4
    elif schedule == "cosine":
        closed = [0.005 * (1 + math.cos(math.pi * 3 * e / steps)) for e in range(4)]
        assert rates == pytest.approx(closed)
    else:
        # Smith & Topin 2018 as torch does it: cosine up over 30% of the steps, cosine down
        low, high, end, peak = 0.01 / 25, 0.01, 0.01 / 25 / 1e4, 0.3 * steps - 1

        def blend(a: float, b: float, share: float) -> float:
            return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

        closed = [
            blend(low, high, s / peak)
            if s <= peak
            else blend(high, end, (s - peak) / (steps - 1 - peak))
            for s in range(0, steps, 3)
        ]
        assert rates == pytest.approx(closed)


def test_gradient_clipping_bounds_the_step(prepared, backbone, make_config, tmp_path):
    training = {
        "epochs": 1, "batch_size": 61, "momentum": 0.0, "learning_rate": 1.0,
        "gradient_clip": 0.01, "choose": "last",
    }  # fmt: skip
    model = finetune(make_config(training=training), prepared, backbone, tmp_path, Recorder())
    after = load_file(model.weights)
    before = build_network(backbone, 3, 0)
    moved = sum(float((p.detach() - after[n]).square().sum()) for n, p in before.named_parameters())
    assert math.sqrt(moved) == pytest.approx(0.01, rel=1e-3)


def test_batches_are_the_rows_in_order(prepared):
    packed = PackedImages(prepared.train)
    order = np.random.default_rng(0).permutation(61)
    images = np.fromfile(prepared.train.images, dtype=np.uint8).reshape(-1, 16, 16, 3)
    batches = list(packed.batches(order, 20, torch.device("cpu")))
    assert [len(labels) for _, labels in batches] == [20, 20, 20, 1]
    assert np.array_equal(torch.cat([x for x, _ in batches]).numpy(), images[order])
    assert np.array_equal(torch.cat([y for _, y in batches]).numpy(), packed.labels_n[order])


def test_a_batch_of_one_is_left_out():
    generator = torch.Generator().manual_seed(0)
    assert len(shuffled(61, 20, generator)) == 60
    assert sorted(shuffled(60, 20, generator)) == list(range(60))
    assert len(shuffled(1, 20, generator)) == 1


def test_views_reach_the_network_normalised(prepared):
    packed = PackedImages(prepared.train)
    images, _ = packed.read(np.arange(4), pin=False)
    view = eval_view(images, prepared.input)
    assert view.shape == (4, 3, 16, 16)
    by_hand = (images[1, 2, 3, 0].item() / 255 - 0.5) / 0.2
    assert view[1, 0, 2, 3].item() == pytest.approx(by_hand, abs=1e-6)


def test_adamw_and_label_smoothing_are_torchs(prepared, backbone, make_config, tmp_path):
    training = {
        "optimizer": "adamw", "weight_decay": 0.1, "label_smoothing": 0.2, "batch_size": 61,
        "epochs": 1, "choose": "last", "learning_rate": 0.001, "precision": "float32",
    }  # fmt: skip
    config = make_config(training=training)
    model = finetune(config, prepared, backbone, tmp_path, Recorder())
    network = build_network(backbone, 3, 0).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.001, weight_decay=0.1)
    order = torch.randperm(61, generator=torch.Generator().manual_seed(0)).numpy()
    images, labels = PackedImages(prepared.train).read(order, pin=False)
    logits = network(eval_view(images, prepared.input))
    # smoothing by hand: (1 - s) on the truth, s spread evenly over all classes
    target = torch.full_like(logits, 0.2 / 3).scatter_(1, labels[:, None], 0.8 + 0.2 / 3)
    (-(target * logits.log_softmax(dim=1)).sum(dim=1).mean()).backward()
    optimizer.step()
    after = load_file(model.weights)
    # AdamW's first step is 0.001 whatever the gradient's size: where that is near 0, so is the
    # rounding that the fused kernel does in another order
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(after[name], parameter.detach(), rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_value_a_channel(prepared, make_config, tmp_path):
    config = make_config(
        model={"architecture": "resnet18"},
        training={"batch_size": 1},
        preprocess={"resize": 16, "crop": 16},
    )
    backbone = load_pretrained(config, prepared.classes, None, tmp_path / "cache")
    with pytest.raises(TrainingError, match=r"batch_size=2"):
        finetune(config, prepared, backbone, tmp_path, Recorder())


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_the_head_has_its_own_rate(schedule, backbone, make_config):
    training = {"learning_rate": 0.01, "head_learning_rate": 0.05, "schedule": schedule}
    recipe = make_config(training=training).training
    network = build_network(backbone, 3, 0)
    optimizer = build_optimizer(network, recipe, backbone, StrategyConfig())
    body, head = optimizer.param_groups
    assert set(head["params"]) == set(network.fc.parameters())
    assert len(body["params"]) + len(head["params"]) == len(list(network.parameters()))
    plan = build_schedule(optimizer, recipe, steps=10, steps_an_epoch=5)
    for _ in range(9):
        optimizer.step()
        plan.step()
        assert head["lr"] == pytest.approx(5 * body["lr"])
