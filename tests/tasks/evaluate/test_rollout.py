"""Attention roll-out against plain matrix products, on transformers of torchvision and timm."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.models import VisionTransformer

from tasks.evaluate.heatmaps import find_way, heat_maps
from tasks.evaluate.rollout import attention_weights, rollout

SIDE = 32  # px


def torchvision_vit() -> nn.Module:
    torch.manual_seed(0)
    network = VisionTransformer(SIDE, 8, 2, 2, 8, 16, num_classes=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)  # the head starts from 0
    return network.eval()


def timm_vit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=8, depth=3, embed_dim=12, num_heads=3,
        num_classes=4, **options,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network.eval()


def inputs_of(network: nn.Module, layers: list[nn.Module], images: torch.Tensor) -> list:
    """Return what each layer is given first."""
    kept: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: kept.append(given[0])) for layer in layers
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return [tokens.double().numpy() for tokens in kept]


def softmax(scores: np.ndarray) -> np.ndarray:
    grown = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def expected_attention(tokens_bld: np.ndarray, weight, bias, heads: int) -> np.ndarray:
    """Return the heads' mean of softmax(q k / sqrt(d)), head by head."""
    weight, bias = weight.detach().double().numpy(), bias.detach().double().numpy()
    query, key, _ = np.split(tokens_bld @ weight.T + bias, 3, axis=-1)
    d = query.shape[-1] // heads
    each = [
        softmax(
            query[..., h * d : (h + 1) * d]
            @ key[..., h * d : (h + 1) * d].transpose(0, 2, 1)
            / np.sqrt(d)
        )
        for h in range(heads)
    ]
    return np.mean(each, axis=0)


def expected_joint(attention: list[np.ndarray]) -> np.ndarray:
    joint = np.eye(attention[0].shape[-1])
    for weights in attention:
        joint = (weights + np.eye(weights.shape[-1])) / 2 @ joint
    return joint


def attention_by_hand(network: nn.Module, images: torch.Tensor) -> list[np.ndarray]:
    if isinstance(network, VisionTransformer):
        layers = [block.self_attention for block in network.encoder.layers]
        given = [(m.in_proj_weight, m.in_proj_bias, m.num_heads) for m in layers]
    else:
        layers = [block.attn for block in network.blocks]
        given = [(m.qkv.weight, m.qkv.bias, m.num_heads) for m in layers]
    tokens = inputs_of(network, layers, images)
    return [expected_attention(t, *g) for t, g in zip(tokens, given, strict=True)]


NETWORKS = {
    "torchvision": (torchvision_vit, 1, [0]),
    "class token": (timm_vit, 1, [0]),
    "registers": (lambda: timm_vit(reg_tokens=4), 5, [0]),
    "mean of patches": (
        lambda: timm_vit(global_pool="avg", class_token=False), 0, list(range(16)),
    ),
    "mean of patches beside a class token": (
        lambda: timm_vit(global_pool="avg"), 1, list(range(1, 17)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_is_what_the_tokens_read_at_the_end_hold_of_each_patch(name: str):
    make, extra, read = NETWORKS[name]
    network = make()
    images = torch.randn(3, 3, SIDE, SIDE)
    found = heat_maps(network, images, [0, 1, 2])
    assert found is not None
    maps, method = found
    assert method == "attention roll-out"
    joint = expected_joint(attention_by_hand(network, images))
    held = torch.from_numpy(joint[:, read, extra:].mean(axis=1).reshape(3, 1, 4, 4))
    large = nn.functional.interpolate(held, (SIDE, SIDE), mode="bilinear")[:, 0].numpy()
    large -= large.min(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(maps, large / large.max(axis=(1, 2), keepdims=True), atol=1e-4)
    assert all(one.std() > 0.05 for one in maps)


def test_the_product_takes_the_last_block_first():
    attention = torch.rand(2, 3, 5, 5).softmax(dim=-1)
    expected = expected_joint([weights.double().numpy() for weights in attention])
    np.testing.assert_allclose(rollout(list(attention)), expected, atol=1e-6)
    assert not np.allclose(rollout(list(attention.flip(0))), expected, atol=1e-3)
    np.testing.assert_allclose(rollout(list(attention)).sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("make", [torchvision_vit, timm_vit])
def test_weights_are_asked_for_within_the_block_alone(make):
    network, images = make(), torch.randn(2, 3, SIDE, SIDE)
    fused = [getattr(module, "fused_attn", None) for module in network.modules()]
    with torch.no_grad():
        before = network(images)
        with attention_weights(network) as attention:
            within = network(images)
    assert len(attention) == (2 if make is torchvision_vit else 3)
    assert all(weights.shape == (2, 17, 17) for weights in attention)
    torch.testing.assert_close(within, before, atol=1e-5, rtol=1e-4)
    assert fused == [getattr(module, "fused_attn", None) for module in network.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    with pytest.raises(ZeroDivisionError), attention_weights(network):
        _ = 1 / 0
    assert fused == [getattr(module, "fused_attn", None) for module in network.modules()]


def test_a_head_of_zeros_reads_from_all_tokens_alike():
    network = torchvision_vit()
    nn.init.zeros_(network.heads.head.weight)
    images = torch.randn(1, 3, SIDE, SIDE)
    way = find_way(network.requires_grad_(False), images, 0)
    assert way is not None
    assert way.method == "attention roll-out"
    maps, _ = heat_maps(network, images, [0])
    held = expected_joint(attention_by_hand(network, images)).mean(axis=1)[:, 1:]
    large = nn.functional.interpolate(
        torch.from_numpy(held.reshape(1, 1, 4, 4)), (SIDE, SIDE), mode="bilinear"
    )
    large = (large - large.min()) / (large.max() - large.min())
    torch.testing.assert_close(maps[None].double(), large, atol=1e-4, rtol=0)
