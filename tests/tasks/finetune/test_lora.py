"""Adapters: what trains, what they merge into, and that every architecture takes them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torchvision import models

from tasks.errors import ConfigError
from tasks.finetune.averaging import Ema, recalibrate
from tasks.finetune.lora import add_lora, frozen_by_lora, merge_lora, merged_state
from tasks.finetune.strategy import FrozenPart
from tasks.pretrained.architectures import names
from tasks.pretrained.heads import find_heads, is_under
from tasks.pretrained.outline import outline
from tasks.pretrained.tiny import GraftTiny

RANK = 2


def vit() -> nn.Module:
    network = models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    network.heads.head = nn.Linear(8, 3)
    return network


def swin() -> nn.Module:
    return models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=8,
        depths=[2],
        num_heads=[2],
        window_size=[4, 4],
        stochastic_depth_prob=0.0,
        num_classes=3,
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "swin": swin,
    "graft_tiny": lambda: GraftTiny(num_classes=3),
    "resnet18": lambda: models.resnet18(num_classes=3),
    "squeezenet1_0": lambda: models.squeezenet1_0(num_classes=3, dropout=0.0),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=3, dropout=0.0),
}


def build(name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a float64 network with random weights, in evaluation mode, and its head."""
    torch.manual_seed(0)
    network = NETWORKS[name]().double().eval()
    heads = find_heads(network)
    for head in heads:
        nn.init.normal_(network.get_submodule(head).weight)
    recalibrate(network, [images(seed) for seed in range(3)])  # or signals vanish on their way
    return network, heads


def images(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 32, 32, generator=generator, dtype=torch.float64)


def train(network: nn.Module, head: tuple[str, ...], steps: int = 3) -> None:
    frozen = FrozenPart(network, frozen_by_lora(network, head))
    optimizer = SGD([p for p in network.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for step in range(steps):
        frozen.train_mode()
        loss = nn.functional.cross_entropy(network(images(step)), torch.tensor([0, 1, 2, 0]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_only_adapters_and_the_head_train_and_merge_into_the_architecture(name):
    network, head = build(name)
    start = copy.deepcopy(network.state_dict())
    plain = network(images())
    add_lora(network, head, RANK, alpha=None)
    torch.testing.assert_close(network(images()), plain, rtol=0, atol=1e-12)
    trains = {n for n, p in network.named_parameters() if p.requires_grad}
    assert {n for n in trains if not is_under(n, head)} == {
        n for n, _ in network.named_parameters() if "lora_" in n
    }
    assert {n for n, _ in network.named_parameters() if is_under(n, head)} <= trains

    train(network, head)
    trained = network(images())
    assert not torch.allclose(trained, plain, atol=1e-4)
    state = merged_state(network)
    merged = merge_lora(network)
    assert merged is network
    torch.testing.assert_close(merged(images()), trained, rtol=0, atol=1e-10)
    shapes = {key: value.shape for key, value in start.items()}
    assert {key: value.shape for key, value in merged.state_dict().items()} == shapes
    assert all(torch.equal(state[key], value) for key, value in merged.state_dict().items())
    fresh = NETWORKS[name]().double().eval()
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(images()), trained, rtol=0, atol=1e-10)
    assert [type(m) for m in merged.modules()] == [type(m) for m in fresh.modules()]
    check_changes(start, state, head, depthwise(fresh))


def depthwise(network: nn.Module) -> set[str]:
    return {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}


def check_changes(
    start: dict[str, Tensor], state: dict[str, Tensor], head: tuple[str, ...], still: set[str]
) -> None:
    for key in (key for key in start if not is_under(key, head)):
        layer, _, own = key.rpartition(".")
        embedding = own in ("class_token", "pos_embedding", "relative_position_bias_table")
        if start[key].ndim < 2 or embedding or layer in still:
            assert torch.equal(state[key], start[key]), key
        else:
            change = (state[key] - start[key]).flatten(1)
            # a random projection to a few columns keeps any rank up to their number, and is quick
            few = change @ torch.randn(change.shape[1], RANK + 4, dtype=change.dtype)
            assert 1 <= np.linalg.matrix_rank(few.numpy(), tol=1e-13) <= RANK, key


def test_attention_merges_into_w_plus_alpha_over_r_times_b_a():
    network, head = build("vit")
    name = "encoder.layers.encoder_layer_1.self_attention.in_proj_weight"
    weight = network.get_parameter(name).detach().clone()
    add_lora(network, head, rank=3, alpha=12.0)
    train(network, head)
    adapter = network.encoder.layers[1].self_attention.parametrizations.in_proj_weight[0]
    want = weight + 4.0 * adapter.lora_B.detach() @ adapter.lora_A.detach()
    torch.testing.assert_close(merged_state(network)[name], want)


def test_a_convolution_merges_into_w_plus_alpha_over_r_times_b_a():
    network, head = build("graft_tiny")
    weight = network.stage2[0].conv1.weight.detach().clone()
    add_lora(network, head, rank=3, alpha=12.0)
    train(network, head)
    adapted = network.stage2[0].conv1
    a, b = (part["default"].weight.detach() for part in (adapted.lora_A, adapted.lora_B))
    want = weight + 4.0 * torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    torch.testing.assert_close(merged_state(network)["stage2.0.conv1.weight"], want)


@pytest.mark.parametrize("weight", ["in_proj_weight", "out_proj.weight"])
def test_attention_has_the_gradient_of_finite_differences(weight):
    network, head = build("vit")
    add_lora(network, head, RANK, alpha=None)
    train(network, head)
    attention = network.encoder.layers[0].self_attention
    layer = attention.get_submodule(weight.rpartition(".")[0])
    b = layer.parametrizations[weight.rpartition(".")[2]][0].lora_B
    network.zero_grad()
    network(images()).square().sum().backward()
    step = torch.zeros_like(b)
    step[0, 0] = 1e-6
    with torch.no_grad():
        b += step
        up = network(images()).square().sum()
        b -= 2 * step
        down = network(images()).square().sum()
    assert b.grad[0, 0].item() == pytest.approx(((up - down) / 2e-6).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["vit", "graft_tiny"])
def test_a_copy_of_the_merged_weights_does_not_disturb_training(name):
    states = []
    for take in (False, True):
        network, head = build(name)
        torch.manual_seed(1)
        add_lora(network, head, RANK, alpha=None)
        train(network, head)
        if take:
            merged_state(network)
        train(network, head)
        states.append(merged_state(network))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", ["vit", "graft_tiny"])
def test_adapters_can_be_averaged_over_steps(name):
    network, head = build(name)
    add_lora(network, head, RANK, alpha=None)
    ema = Ema(network, 0.9)
    train(network, head)
    ema.update(network)
    with torch.no_grad():
        for now, mean in zip(network.parameters(), ema.network.parameters(), strict=True):
            mean.copy_(now)
    torch.testing.assert_close(ema.network(images()), network(images()))
    assert merged_state(ema.network).keys() == NETWORKS[name]().state_dict().keys()


class Scaled(nn.Conv2d):
    """A convolution that does something to its weight first, as some of timm's do."""

    def forward(self, maps_bchw: Tensor) -> Tensor:
        return self._conv_forward(maps_bchw, self.weight * 2, self.bias)


def test_layers_that_peft_would_get_wrong_are_adapted_as_well():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        Scaled(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()
    plain = network.eval()(images())
    add_lora(network, "6", RANK, alpha=None)
    trains = {n for n, p in network.named_parameters() if p.requires_grad}
    assert {n for n in trains if "lora_" not in n} == {"6.weight", "6.bias"}
    train(network, ("6",))
    trained = network(images())
    assert not torch.allclose(trained, plain, atol=1e-4)
    torch.testing.assert_close(merge_lora(network)(images()), trained, rtol=0, atol=1e-10)
    assert not any("lora_" in name for name, _ in network.named_parameters())


def test_batch_norm_outside_the_head_stays_still():
    network, head = build("resnet18")
    norms = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert set(frozen_by_lora(network, head)) == norms
    add_lora(network, head, RANK, alpha=None)
    assert set(frozen_by_lora(network, head)) == norms


def test_without_peft_the_extra_is_named_and_the_network_is_as_it_was(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    network, head = build("graft_tiny")
    with pytest.raises(ConfigError, match="uv sync --extra lora"):
        add_lora(network, head, RANK, alpha=None)
    assert all(p.requires_grad for p in network.parameters())


def test_a_network_that_is_all_head_is_refused():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="no layer to adapt in Sequential outside its head 2"):
        add_lora(network, "2", RANK, alpha=None)
    assert all(p.requires_grad for p in network.parameters())


# One of each of torchvision's families, among them the ones whose code differs between members.
FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet50", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn"),
    *("vit_b_32", "wide_resnet50_2"),
)
OF_TIMM = ("beit_base_patch16_224", "davit_tiny", "deit_tiny_distilled_patch16_224", "nfnet_f0")


def test_the_list_has_every_family():
    def family(name: str) -> str:
        return name.rstrip("0123456789").split("_")[0].rstrip("0123456789")

    assert {family(name) for name in names()} - {family(name) for name in FAMILIES} == {"graft"}


def check_every_adapter_learns(architecture: str) -> None:
    """Adapt, learn and merge on the meta device, which computes shapes alone."""
    network = outline(architecture, 3)
    head = find_heads(network)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    add_lora(network, head, RANK, alpha=None)
    side = 299 if architecture == "inception_v3" else 224
    network(torch.empty(2, 3, side, side, device="meta")).sum().backward()
    learns = {n for n, p in network.named_parameters() if p.grad is not None}
    assert learns == {n for n, p in network.named_parameters() if p.requires_grad}
    assert {key: value.shape for key, value in merge_lora(network).state_dict().items()} == shapes


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_of_torchvision_takes_adapters(architecture):
    check_every_adapter_learns(architecture)


@pytest.mark.parametrize("name", OF_TIMM)
def test_networks_of_timm_that_look_into_their_layers_take_them(name):
    pytest.importorskip("timm")
    check_every_adapter_learns(f"timm:{name}")
