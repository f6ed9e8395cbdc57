"""A grid's cells are whole runs, each named when it is wrong, and its digest leaves seeds out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tasks.compareconfig import CompareConfig, Place, waves
from tasks.configfile import load_config
from tasks.errors import ConfigError

TEXT = """
base:
  data: {kind: digits}
  model: {architecture: graft_tiny, weights: graft:tiny-cifar10}
datasets: {digits: {}, large: {preprocess: {resize: 40}, data.val_fraction: 0.3}}
backbones: {tiny: {}, wide: {model.architecture: resnet18, model.weights: torchvision:DEFAULT}}
strategies:
  full: {}
  scratch: {strategy.kind: scratch, model: {weights: null}}
  distill: {strategy: {kind: distill, teacher: cell:full}}
seeds: [3, 5]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "compare.yaml"
    file.write_text(TEXT)
    return file


def load(path: Path, *overrides: str) -> CompareConfig:
    return load_config(path, overrides, CompareConfig)


def test_the_cells_are_the_product_seed_by_seed(path: Path):
    config = load(path)
    product = itertools.product(
        (3, 5), ("digits", "large"), ("tiny", "wide"), ("full", "scratch", "distill")
    )
    assert [(c.place.seed, *c.place[:3]) for c in config.cells()] == list(product)


def test_a_cell_is_the_base_with_its_changes(path: Path):
    config = load(path, "base.training.epochs=7", "strategies.full.training.epochs=2")
    cells = {cell.place: cell.config for cell in config.cells()}
    small = cells[Place("digits", "tiny", "scratch", 3)]
    large = cells[Place("large", "wide", "full", 5)]
    assert (small.seed, small.preprocess.resize, small.model.weights) == (3, None, None)
    assert (small.strategy.kind, small.training.epochs) == ("scratch", 7)
    assert (large.preprocess.resize, large.data.val_fraction) == (40, 0.3)
    assert (large.model.architecture, large.training.epochs) == ("resnet18", 2)
    assert large.data.kind == "digits"
    assert config.base.preprocess.resize is None


def test_a_teacher_comes_before_its_pupils(path: Path):
    named = "strategies={full: {}, a: {strategy: {kind: distill, teacher: cell:wide/b}}, "
    named += "b: {strategy: {kind: distill, teacher: cell:full}}}"
    first, second, third = waves(load(path, named).cells())
    assert {cell.place.strategy for cell in first} == {"full"}
    assert {cell.place.strategy for cell in second} == {"b"}
    assert {(cell.place.strategy, cell.teacher.backbone) for cell in third} == {("a", "wide")}
    assert all(cell.teacher.seed == cell.place.seed for cell in (*second, *third))
    assert all(cell.teacher.dataset == cell.place.dataset for cell in (*second, *third))


WRONG = {
    "unknown key": (
        "strategies.full.training.epoch=1",
        ["digits · tiny · full · seed 3", "training.epoch is not a known key"],
    ),
    "unknown section": ("strategies.full.training.epochs.x=1", ["training.epochs.x"]),
    "out of range": ("strategies.full.training.epochs=0", ["full", "greater than or equal to 1"]),
    "not strict": ("datasets.large.preprocess.resize='40'", ["large", "integer"]),
    "two that clash": ("strategies.scratch.model.weights=x", ["scratch", "model.weights=null"]),
    "not of a cell": ("strategies.full.output.folder=x", ["base.output.folder"]),
    "idle in one": (
        "strategies.full.strategy.lora_alpha=2",
        ["digits · tiny · full · seed 3", "with strategy.kind=full set it to null"],
    ),
    "idle in another": (
        "strategies.distill.training.feature_views=2",
        ["digits · tiny · distill · seed 3", "feature_views=null"],
    ),
    "own seed": ("strategies.full.seed=1", ["base.seed"]),
    "no mapping": ("strategies.full=3", ["strategies.full", "object"]),
    "name": ("datasets={'a b': {}}", ["a b"]),
    "bad seed": ("seeds=[-1]", ["seed -1", "greater than or equal to 0"]),
    "seed twice": ("seeds=[1, 1]", ["twice"]),
    "no seed": ("seeds=[]", ["seeds"]),
    "no reference": ("reference=fool", ["reference fool", "full, scratch, distill"]),
    "no such teacher": ("strategies.distill.strategy.teacher=cell:fool", ["cell:fool"]),
    "circle": ("strategies.distill.strategy.teacher=cell:distill", ["leads back to itself"]),
    "at once": ("parallel=0", ["parallel"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_the_cell(path: Path, case: str):
    override, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        load(path, override)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    assert all(word in message for word in words), message


def test_the_digest_is_of_what_decides_the_figures(path: Path):
    own = load(path).identity
    for same in (
        "seeds=[1, 2, 3]",
        "parallel=2",
        "base.output.folder=elsewhere",
        "base.training.threads=1",
        "keep_weights=true",
        "reference=scratch",
        "cost_limit=null",
    ):
        assert load(path, same).identity == own, same
    for other in ("base.training.epochs=3", "strategies.full.training.epochs=3", "name=other"):
        assert load(path, other).identity != own, other


def test_names_of_cells_are_told_apart_when_they_are_long():
    names = {Place("d" * 100, "b" * 100, "s", seed).name for seed in (1, 11)}
    assert len(names) == 2
    assert max(map(len, names)) <= 100
