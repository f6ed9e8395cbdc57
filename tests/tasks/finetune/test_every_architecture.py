"""One step of every classifier of torchvision, and of some of timm: exactly what should move does.

Every network takes the step on the meta device, where tensors hold no numbers but count how often
they were written; the smallest of each family takes it with numbers as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from tasks.finetune.optimizer import build_optimizer
from tasks.finetune.strategy import FrozenPart, frozen_names
from tasks.pretrained.architectures import build, names
from tasks.pretrained.heads import find_heads
from tasks.pretrained.outline import outline
from tasks.pretrained.stages import find_stages
from tasks.recipe import StrategyConfig, TrainingConfig
from tasks.values import Backbone, InputSpec

CLASSES = 7
RATE = 0.01
KINDS = ("partial", "linear_probe", "full")
# a module of torchvision, and the smallest network in it
SMALLEST = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet0_5",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3": "mobilenet_v3_small",
    "regnet": "regnet_y_400mf",
    "resnet": "resnet18",
    "shufflenetv2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "swin_transformer": "swin_t",
    "vgg": "vgg11",
    "vision_transformer": "vit_b_32",
}
OF_TIMM = (
    "timm:resnet10t",
    "timm:convnext_atto",
    "timm:test_vit",
    "timm:deit_tiny_distilled_patch16_224",  # two heads
    "timm:efficientnet_b0",
)
# With 32 px some batch norms would see two values a channel, whose gradient is 0.
SIDE = 64
OTHER_SIDES = {
    "inception_v3": 107,
    "maxvit_t": 224,
    "vit_h_14": 56,
    "timm:test_vit": 160,
    "timm:deit_tiny_distilled_patch16_224": 224,
}


def size_of(architecture: str) -> int:
    """Return the side in px of small images that a network learns from."""
    return OTHER_SIDES.get(architecture, SIDE)


def backbone_of(architecture: str, network: nn.Module) -> Backbone:
    heads = find_heads(network)
    size = size_of(architecture)
    return Backbone(
        architecture=architecture,
        source="none",
        weights=None,
        sha256=None,
        input=InputSpec(
            resize=size, crop=size, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear"
        ),
        head=heads[0],
        other_heads=heads[1:],
        keep_head=False,
        stages=find_stages(network, *heads),
        parameters=sum(p.numel() for p in network.parameters()),
    )


class Step:
    """A network with part of it held, and what should move in one step of it."""

    def __init__(self, architecture: str, network: nn.Module, kind: str) -> None:
        self.network = network
        backbone = backbone_of(architecture, network)
        self.stages = len(backbone.stages)
        frozen = len(backbone.stages) // 2 if kind == "partial" else 0
        strategy = StrategyConfig.model_validate({"kind": kind, "frozen_stages": frozen})
        held = FrozenPart(network.requires_grad_(True))
        held.hold(frozen_names(strategy, backbone))
        held.train_mode()
        recipe = TrainingConfig(learning_rate=RATE, momentum=0)
        self.optimizer = build_optimizer(network, recipe, backbone, strategy)
        still = {"full": 0, "partial": frozen, "linear_probe": len(backbone.stages)}[kind]
        self.frozen = members(network, [n for stage in backbone.stages[:still] for n in stage])
        self.heads = members(network, list(backbone.heads))

    def take(self, images_bchw: Tensor) -> None:
        """Train on two images of two classes."""
        logits_bk = self.network(images_bchw)
        assert logits_bk.shape == (2, CLASSES)
        labels_b = torch.tensor([1, 4], device=images_bchw.device)
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits_bk, labels_b).backward()
        self.optimizer.step()

    def parameters(self) -> Iterator[tuple[str, nn.Parameter, bool]]:
        """Yield every parameter's name, itself, and whether it should move."""
        for name, parameter in self.network.named_parameters():
            yield name, parameter, id(parameter) not in self.frozen

    def statistics(self) -> Iterator[tuple[str, Tensor, bool]]:
        """Yield the running statistics of every batch norm in the same way."""
        for name, module in self.network.named_modules():
            if isinstance(module, _BatchNorm):
                for key, value in module.named_buffers():
                    yield f"{name}.{key}", value, id(module) not in self.frozen


def members(network: nn.Module, names: list[str]) -> set[int]:
    """Return the ids of all modules and parameters that torch finds under these names."""
    found: set[int] = set()
    for name in names:
        parent, _, last = name.rpartition(".")
        member = getattr(network.get_submodule(parent), last)
        if isinstance(member, nn.Module):
            found |= {id(m) for m in [*member.modules(), *member.parameters()]}
        else:
            found.add(id(member))
    return found


def without_chance(network: nn.Module) -> nn.Module:
    """Let no dropout or stochastic depth, and no weight of 0, keep a gradient from the others.

    timm starts the last norm of every residual block from 0.
    """
    for module in network.modules():
        for name in ("p", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.is_meta and not parameter.any():
                parameter.normal_(std=0.02)
    return network


def family(architecture: str) -> str:
    return str(models.get_model_builder(architecture).__module__).rpartition(".")[2]


def test_every_family_of_torchvision_is_here():
    assert {family(name) for name in models.list_models(module=models)} == set(SMALLEST)
    assert all(family(name) == key for key, name in SMALLEST.items())


@pytest.mark.parametrize("architecture", [*names(), *OF_TIMM])
def test_a_step_writes_to_what_trains_and_to_nothing_else(architecture: str):
    network = without_chance(outline(architecture, CLASSES, image_size(architecture)))
    size = size_of(architecture)
    images_bchw = torch.empty(2, 3, size, size, device="meta")
    for kind in KINDS:
        step = Step(architecture, network, kind)
        assert step.stages >= 4
        written = [*step.parameters(), *counters(step)]
        before = {name: tensor._version for name, tensor, _ in written}
        step.take(images_bchw)
        for name, tensor, moves in written:
            assert (tensor._version > before[name]) == moves, (kind, name)
        for name, parameter, moves in step.parameters():
            assert parameter.requires_grad == (parameter.grad is not None) == moves, (kind, name)
        check_what_trains(step, kind)


def counters(step: Step) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield the batch counters: on the meta device batch norm writes to nothing else it keeps."""
    return (one for one in step.statistics() if one[0].endswith(".num_batches_tracked"))


def check_what_trains(step: Step, kind: str) -> None:
    trains = {id(p) for _, p, moves in step.parameters() if moves}
    everything = {id(p) for p in step.network.parameters()}
    heads = step.heads & everything
    assert heads <= trains
    if kind == "linear_probe":
        assert trains == heads
    elif kind == "full":
        assert trains == everything
    else:
        assert heads < trains < everything


def image_size(architecture: str) -> int | None:
    return size_of(architecture) if architecture.startswith("vit_") else None


@pytest.mark.parametrize("architecture", ["graft_tiny", *SMALLEST.values(), *OF_TIMM])
def test_numbers_move_by_the_gradient_or_stay_to_the_bit(architecture: str):
    torch.manual_seed(0)
    network = without_chance(build(architecture, CLASSES, image_size(architecture)))
    size = size_of(architecture)
    for kind in KINDS:
        step = Step(architecture, network, kind)
        before = {n: t.detach().clone() for n, t, _ in [*step.parameters(), *step.statistics()]}
        step.take(torch.randn(2, 3, size, size))
        for name, parameter, moves in step.parameters():
            check_parameter(before[name], parameter, moves)
        for name, statistic, moves in step.statistics():
            assert torch.equal(before[name], statistic) != moves, (kind, name)


def check_parameter(before: Tensor, parameter: nn.Parameter, moves: bool) -> None:
    """Plain SGD takes the rate times the gradient off, in two roundings or one."""
    after = parameter.detach()
    if moves:
        assert parameter.grad is not None
        assert parameter.grad.any()
        twice, once = before - RATE * parameter.grad, before.add(parameter.grad, alpha=-RATE)
        assert ((after == twice) | (after == once)).all()
    else:
        assert parameter.grad is None
        assert torch.equal(before, after)
