"""What is frozen: which names, and what holding them still does to parameters and statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tasks.errors import ConfigError
from tasks.finetune.strategy import (
    FrozenPart,
    count_trainable,
    describe_stages,
    every_stage,
    first_stages,
    frozen_names,
)
from tasks.recipe import StrategyConfig
from tasks.values import Backbone

STAGES = (("a",), ("b", "c"), ("d",))


@pytest.fixture
def staged(backbone: Backbone) -> Backbone:
    return backbone.model_copy(update={"stages": STAGES})


def partial(n: int) -> StrategyConfig:
    return StrategyConfig(kind="partial", frozen_stages=n)


def test_the_names_are_those_of_the_first_stages(staged: Backbone):
    assert frozen_names(partial(1), staged) == ("a",)
    assert frozen_names(partial(2), staged) == ("a", "b", "c")
    assert frozen_names(partial(3), staged) == ("a", "b", "c", "d") == every_stage(staged)
    assert frozen_names(StrategyConfig(kind="linear_probe"), staged) == ("a", "b", "c", "d")
    assert frozen_names(StrategyConfig(kind="full"), staged) == () == first_stages(staged, 0)


def test_one_stage_more_than_there_are_is_refused_with_all_of_them(staged: Backbone):
    with pytest.raises(ConfigError) as caught:
        frozen_names(partial(4), staged)
    assert str(caught.value) == (
        "strategy.frozen_stages=4, but graft_tiny has 3 stages:\n1 a, 2 b+c, 3 d"
    )
    assert describe_stages(staged) == "1 a, 2 b+c, 3 d"


class Network(nn.Module):
    """Two layers of one prefix, norms that count, dropout, and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))
        self.layer1 = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.layer10 = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)
        self.head.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer10(self.layer1(x + self.token)))


def training(network: nn.Module) -> set[str]:
    return {name for name, p in network.named_parameters() if p.requires_grad}


def in_training_mode(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if module.training}


def test_what_is_held_neither_trains_nor_counts_and_is_let_go_again():
    network = Network()
    of_layer1, of_layer10 = (
        {f"{layer}.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")}
        for layer in ("layer1", "layer10")
    )
    frozen = FrozenPart(network)
    assert training(network) == {"token", "head.weight"} | of_layer1 | of_layer10
    assert frozen.modules() == set()

    frozen.hold(("token", "layer1"))
    assert training(network) == {"head.weight"} | of_layer10  # layer10 is not within layer1
    assert frozen.modules() == set(network.layer1.modules())
    assert count_trainable(network) == 6 + 9 + 3 + 3 + 3

    network.eval()
    frozen.train_mode()
    assert in_training_mode(network) == {"", "layer10", "layer10.0", "layer10.1", "head"}

    frozen.hold(("layer10",))
    assert training(network) == {"token", "head.weight"} | of_layer1
    frozen.train_mode()
    assert in_training_mode(network) == {"", "layer1", "layer1.0", "layer1.1", "layer1.2", "head"}
    assert frozen.can_train("layer10.0.weight")  # in another phase
    assert not frozen.can_train("head.bias")  # it did not when the part was made


def test_a_held_parameter_has_no_gradient_left_for_an_optimiser():
    network = Network()
    frozen = FrozenPart(network)
    network(torch.randn(4, 3)).sum().backward()
    frozen.hold(("layer1",))
    left = {name for name, p in network.named_parameters() if p.grad is not None}
    assert left == training(network)


def test_what_is_always_still_is_so_whatever_else_is_held():
    network = Network()
    network.layer10.requires_grad_(False)
    frozen = FrozenPart(network, iter(("layer10",)))
    for names, still in (
        ((), {"layer10"}),
        (("layer1",), {"layer10", "layer1"}),
        (("no such part",), {"layer10"}),
    ):
        frozen.hold(names)
        inner = {m for name in still for m in network.get_submodule(name).modules()}
        assert frozen.modules() == inner
        frozen.train_mode()
        assert {m for m in network.modules() if not m.training} == inner
