"""Folded batch norm against the network itself, over torchvision's families."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from tasks.finetune.fuse import fused
from tasks.pretrained.architectures import build

FAMILIES = (
    "graft_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf",
    "resnet18", "shufflenet_v2_x0_5",
)  # fmt: skip


def lively(architecture: str) -> nn.Module:
    """Build a network whose batch norms do something, as trained ones do."""
    torch.manual_seed(0)
    network = build(architecture, 5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network


def foldable(architecture: str, network: nn.Module) -> int:
    if architecture == "densenet121":  # norms come first; the stem and 58 layers have one behind
        return 1 + (6 + 12 + 24 + 16)
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_outputs_are_those_of_the_network(architecture: str, caplog):
    caplog.set_level(logging.DEBUG, "tasks.finetune.fuse")
    network = lively(architecture).to(memory_format=torch.channels_last).train()
    before = copy.deepcopy(network.state_dict())
    quick = fused(network)
    assert f" {foldable(architecture, network)} batch norms" in caplog.text
    assert all(module.training for module in network.modules())
    network.eval()
    size = 80 if architecture == "inception_v3" else 64
    images_bchw = torch.randn(3, 3, size, size)
    with torch.inference_mode():
        expected, found = network(images_bchw), quick(images_bchw)
    scale = max(1.0, expected.abs().max().item())
    assert (expected - found).abs().max().item() <= 1e-4 * scale
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_later_training_does_not_reach_it():
    network = lively("graft_tiny")
    quick = fused(network)
    images_bchw = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = quick(images_bchw)
        network.train()
        network(images_bchw)  # the statistics go on counting
        for parameter in network.parameters():
            parameter.mul_(2)
        assert torch.equal(quick(images_bchw), expected)


def test_what_has_nothing_to_fold_is_returned_as_it_is(caplog):
    caplog.set_level(logging.DEBUG, "tasks.finetune.fuse")
    for network, reason in (
        (build("squeezenet1_1", 5), "no batch norm"),
        (Branching(), "cannot be traced"),
        (Twice(), "one layer twice"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)), "0 batch norms"),
    ):
        caplog.clear()
        assert fused(network) is network
        assert reason in caplog.text


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) if x.sum() > 0 else x


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = (
            nn.Conv2d(3, 3, 1),
            nn.BatchNorm2d(3),
            nn.BatchNorm2d(3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x))))
