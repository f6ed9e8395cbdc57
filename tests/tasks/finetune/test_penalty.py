"""L2-SP against its closed form, in value and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

from tasks.finetune.penalty import L2SP
from tasks.pretrained.tiny import GraftTiny


@pytest.fixture
def network() -> GraftTiny:
    torch.manual_seed(0)
    return GraftTiny(num_classes=3)


def move(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter)


def test_value_and_gradient_are_the_closed_form(network):
    start = copy.deepcopy(dict(network.named_parameters()))
    penalty = L2SP(network, "fc", alpha=0.3, beta=0.7)
    move(network)
    value = penalty()
    value.backward()
    want = 0.0
    for name, parameter in network.named_parameters():
        head = name.startswith("fc.")
        pull = parameter.detach() if head else (parameter - start[name]).detach()
        rate = 0.7 if head else 0.3
        want += rate / 2 * pull.double().square().sum().item()
        torch.testing.assert_close(parameter.grad, rate * pull)
    assert value.shape == ()
    assert value.item() == pytest.approx(want, rel=1e-5)


def test_at_the_start_only_the_head_is_pulled(network):
    penalty = L2SP(network, "fc", alpha=2.0, beta=0.0)
    value = penalty()
    value.backward()
    assert value.item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in network.parameters())


def test_on_the_head_it_is_the_weight_decay_of_sgd(network):
    decayed = copy.deepcopy(network)
    L2SP(network, "fc", alpha=0.1, beta=0.2)().backward()
    SGD(network.fc.parameters(), lr=0.5).step()
    decayed.fc.weight.grad = torch.zeros_like(decayed.fc.weight)
    decayed.fc.bias.grad = torch.zeros_like(decayed.fc.bias)
    SGD(decayed.fc.parameters(), lr=0.5, weight_decay=0.2).step()
    torch.testing.assert_close(network.fc.weight, decayed.fc.weight)


def test_what_is_frozen_does_not_count_until_it_is_thawed(network):
    network.stem.requires_grad_(False)
    penalty = L2SP(network, "fc", alpha=1.0, beta=0.0)
    with torch.no_grad():
        network.stem[0].weight += 1
    assert penalty().item() == 0
    network.stem.requires_grad_(True)
    assert penalty().item() == pytest.approx(network.stem[0].weight.numel() / 2)


def test_with_all_but_the_head_frozen_and_with_all_frozen(network):
    network.requires_grad_(False)
    penalty = L2SP(network, "fc", alpha=1.0, beta=1.0)
    assert penalty().item() == 0
    network.fc.requires_grad_(True)
    want = sum(p.square().sum().item() for p in network.fc.parameters()) / 2
    assert penalty().item() == pytest.approx(want)


def test_several_heads_are_all_pulled_to_zero(network):
    start = network.stem[0].weight.detach().clone()
    L2SP(network, ("fc", "stem"), alpha=0.0, beta=1.0)().backward()
    torch.testing.assert_close(network.stem[0].weight.grad, start)
    torch.testing.assert_close(network.fc.weight.grad, network.fc.weight.detach())
