"""A space fits its base, each wrong key is named, and the identity leaves the pace out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.configfile import load_config
from tasks.errors import ConfigError
from tasks.searchconfig import Dimension, SearchConfig

TEXT = """
base:
  data: {kind: digits}
  model: {architecture: graft_tiny, weights: graft:tiny-cifar10}
  training: {learning_rate: 0.01, batch_size: 32, label_smoothing: 0.1}
space:
  training.learning_rate: {low: 0.001, high: 1, log: true}
  training.batch_size: {low: 16, high: 64, step: 16}
  training.label_smoothing: {low: 0.0, high: 0.3, step: 0.05}
  strategy.kind: {choices: [full, partial]}
  strategy.ema_decay: {choices: [null, 0.99]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "search.yaml"
    file.write_text(TEXT)
    return file


def load(path: Path, *overrides: str) -> SearchConfig:
    return load_config(path, overrides, SearchConfig)


def only(key: str, dimension: str) -> str:
    return f"space={{{key}: {dimension}}}"


def test_the_first_point_is_the_base(path: Path):
    config = load(path)
    first = config.first()
    assert first == {
        "training.learning_rate": 0.01,
        "training.batch_size": 32,
        "training.label_smoothing": 0.1,
        "strategy.kind": "full",
        "strategy.ema_decay": None,
    }
    assert config.run_of(first) == config.base


def test_a_point_becomes_a_run_or_says_why_not(path: Path):
    config = load(path)
    run = config.run_of({**config.first(), "training.batch_size": 48, "strategy.ema_decay": 0.99})
    assert (run.training.batch_size, run.strategy.ema_decay) == (48, 0.99)
    assert run.training.momentum == config.base.training.momentum
    with pytest.raises(ValueError, match="frozen_stages"):
        config.run_of({**config.first(), "strategy.kind": "partial"})


def test_what_steps_add_up_to_is_rounded(path: Path):
    smoothing = load(path).space["training.label_smoothing"]
    assert smoothing.rounded(0.15000000000000002) == 0.15
    assert smoothing.rounded(0.1 + 0.2) == 0.3
    assert smoothing.holds(0.15)
    assert not smoothing.holds(0.12)


WRONG = {
    "no key of a run": (only("training.lr", "{low: 0.1, high: 1}"), ["space.training.lr", "known"]),
    "a section": (only("training", "{low: 0.1, high: 1}"), ["space.training", "single value"]),
    "a list": (only("preprocess.mean", "{choices: [1, 2]}"), ["base.preprocess.mean is null"]),
    "the images": (only("data.val_fraction", "{low: 0.1, high: 0.2}"), ["base.data.val_fraction"]),
    "the seed": (only("seed", "{low: 0, high: 3}"), ["space.seed", "cannot be searched"]),
    "the threads": (only("training.threads", "{low: 1, high: 2}"), ["space.training.threads"]),
    "both": (
        only("training.epochs", "{low: 1, high: 20, choices: [1, 2]}"),
        ["space.training.epochs", "choices goes without"],
    ),
    "neither": (only("training.epochs", "{low: 1}"), ["space.training.epochs", "low and high"]),
    "upside down": (only("training.epochs", "{low: 20, high: 2}"), ["low must be below high"]),
    "log of 0": (only("training.mixup", "{low: 0.0, high: 1.0, log: true}"), ["log needs a low"]),
    "off the grid": (only("training.epochs", "{low: 1, high: 20, step: 2}"), ["whole number of"]),
    "twice": (only("training.optimizer", "{choices: [sgd, sgd]}"), ["one value twice"]),
    "one choice": (only("training.optimizer", "{choices: [sgd]}"), ["choices", "at least 2"]),
    "unknown": (only("training.epochs", "{low: 1, high: 20, logs: true}"), ["logs", "known key"]),
    "half epochs": (only("training.epochs", "{low: 0.5, high: 20}"), ["whole numbers"]),
    "a wrong choice": (
        only("training.optimizer", "{choices: [sgd, adam]}"),
        ["space.training.optimizer", '"adam"', "adamw"],
    ),
    "a wrong bound": (only("training.epochs", "{low: 0, high: 20}"), ["training.epochs", "has 0"]),
    "base outside": ("base.training.learning_rate=2.0", ["base.training.learning_rate is 2.0"]),
    "base between": ("base.training.batch_size=40", ["base.training.batch_size is 40"]),
    "null base": (
        only("training.head_learning_rate", "{low: 0.1, high: 1.0}"),
        ["base.training.head_learning_rate is null"],
    ),
    "devices": ("base.training.devices=2", ["base.training.devices", "pruner=none"]),
    "a signature": (
        only("model.weights", "{choices: ['graft:tiny-cifar10', 'https://h/w?sig=hunter2']}"),
        ["space.model.weights has an address with a query"],
    ),
    "a login": (
        only("model.weights", "{choices: ['graft:tiny-cifar10', 'https://u:hunter2@h/w.pth']}"),
        ["space.model.weights has an address with a login"],
    ),
    "a login with a slash": (
        only("model.weights", "{choices: ['graft:tiny-cifar10', 'https://u:x/hunter2@h/w.pth']}"),
        ["space.model.weights has an address with a login"],
    ),
    "tiny steps": (
        only("training.mixup", "{low: 0, high: 1.0, step: 1.0e-30}"),
        ["space.training.mixup", "step is too small"],
    ),
    "storage": ("storage=mysql://host/x", ["storage must be sqlite:///FILE or postgresql"]),
    "password": ("storage=postgresql://me:hunter2@host/x", ["storage holds a password"]),
    "password after": (
        "storage=postgresql://host/x?user=me&password=hunter2",
        ["storage holds a password"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_key(path: Path, case: str):
    override, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        load(path, override)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    assert all(word in message for word in words), message
    assert "hunter2" not in message


def test_a_password_by_name_is_fine(path: Path):
    for named in (
        "postgresql://me:${secret:search-db}@host/x",
        "postgresql://host/x?user=me&password=${secret:search-db}&sslmode=require",
    ):
        assert load(path, f"storage={named}").storage == named


def test_false_is_not_0_but_1_is_10_tenths():
    both = Dimension(choices=(0, False))
    assert both.choices is not None
    assert [type(value) for value in both.choices] == [int, bool]
    assert both.holds(False)
    assert not Dimension(choices=(0, 2)).holds(False)
    assert Dimension(choices=(1, 2)).holds(1.0)
    with pytest.raises(ValueError, match="one value twice"):
        Dimension(choices=(1, 1.0))


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("trials=99", True),
        ("parallel=3", True),
        ("timeout=3.0", True),
        ("runner.cpus=3.0", True),
        ("keep_weights=true", True),
        ("base.output.folder=elsewhere", True),
        ("base.training.threads=1", True),
        ("storage=sqlite:///x.db", True),
        ("seed=1", False),
        ("sampler=random", False),
        ("metric=val_loss", False),
        ("base.training.epochs=9", False),
        ("base.data.val_fraction=0.3", False),
        (only("training.epochs", "{low: 1, high: 20}"), False),
    ],
)
def test_the_identity_is_of_what_decides_the_trials(path: Path, override: str, same: bool):
    assert (load(path, override).identity == load(path).identity) == same
