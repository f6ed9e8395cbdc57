"""Grad-CAM against its closed form, and over families of networks of torchvision and timm."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from tasks.evaluate.feature_maps import layout_of
from tasks.evaluate.heatmaps import find_way, heat_maps
from tasks.finetune.fuse import fused
from tasks.pretrained.architectures import build

CLASSES = 5
CAM, ROLL_OUT = "grad-cam", "attention roll-out"


class Joined(nn.Module):
    """Puts windows of one place (b, h * w, 1, c) together to maps, as MaxViT does."""

    def forward(self, windows_bl1c: Tensor) -> Tensor:
        b, places, _, c = windows_bl1c.shape
        side = round(places**0.5)
        maps_bchw = windows_bl1c[:, :, 0].transpose(1, 2).reshape(b, c, side, side)
        return 1.0 * maps_bchw


class Small(nn.Module):
    """Convolutions, then a mean over places and a linear layer: where Grad-CAM is CAM."""

    def __init__(self, ending: str = "bchw") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)  # called twice
        self.norm = nn.Identity()
        self.joined = Joined()
        self.fc = nn.Linear(6, CLASSES)
        self.ending = ending

    def maps(self, images_bchw: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(images_bchw))))

    def forward(self, images_bchw: Tensor) -> Tensor:
        maps = self.maps(images_bchw)
        if self.ending == "bchw":
            return self.fc(maps.mean(dim=(2, 3)))
        if self.ending == "bhwc":
            return self.fc(self.norm(maps.permute(0, 2, 3, 1).contiguous()).mean(dim=(1, 2)))
        if self.ending == "windows":
            return self.fc(self.joined(maps.flatten(2).permute(0, 2, 1)[:, :, None]).mean((2, 3)))
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat((torch.ones_like(tokens[:, :2]), tokens), dim=1)
        return self.fc(self.norm(tokens.contiguous())[:, 2:].mean(dim=1))


def cam(network: Small, images_bchw: Tensor, targets: list[int]) -> np.ndarray:
    """Return Zhou et al. 2016's map: the head's weights of the class, over the last maps."""
    with torch.no_grad():
        maps = network.maps(images_bchw)
        weights = network.fc.weight[targets]
        map_bhw = torch.einsum("bk,bkhw->bhw", weights, maps).relu()
        large = nn.functional.interpolate(
            map_bhw[:, None], images_bchw.shape[-2:], mode="bilinear"
        )[:, 0]
    return (large / large.amax(dim=(1, 2), keepdim=True)).numpy()


@pytest.mark.parametrize("ending", ["bchw", "bhwc", "blc", "windows"])
def test_grad_cam_is_cam_where_a_mean_and_a_linear_layer_end_the_network(ending: str):
    torch.manual_seed(3)
    network = Small(ending)
    images, targets = torch.randn(11, 3, 28, 28), [i % CLASSES for i in range(11)]
    maps, method = heat_maps(network, images, targets)
    assert method == CAM
    expected = cam(network, images, targets)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_windows_that_are_put_together_are_the_last_maps():
    network, image = Small("windows").requires_grad_(False), torch.randn(1, 3, 28, 28)
    way = find_way(network, image, 0)
    assert way is not None
    assert way.place.layer is network.joined


def test_the_maps_are_those_of_the_class_asked_for():
    torch.manual_seed(3)
    network, images = Small(), torch.randn(1, 3, 28, 28)
    one, other = (heat_maps(network, images, [target])[0] for target in (1, 2))
    assert (one - other).abs().max() > 0.1


def test_a_map_that_pooling_copied_to_more_places_is_none():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(7),
        nn.Flatten(), nn.Linear(4 * 49, CLASSES),
    )  # fmt: skip
    network.requires_grad_(False)
    way = find_way(network, torch.randn(1, 3, 16, 16), 0)
    assert way is not None
    assert way.place.layout.side == 8


def test_a_branch_that_the_logits_are_not_made_of_is_passed_by():
    class Branched(Small):
        def forward(self, images_bchw: Tensor) -> Tensor:
            logits = super().forward(images_bchw)
            self.conv1(images_bchw)
            return logits

    torch.manual_seed(3)
    network, images = Branched(), torch.randn(2, 3, 28, 28)
    maps, _ = heat_maps(network, images, [0, 1])
    np.testing.assert_allclose(maps, cam(network, images, [0, 1]), atol=1e-5)


def test_the_right_one_of_a_layers_calls_is_explained():
    class PooledTwice(Small):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, images_bchw: Tensor) -> Tensor:
            self.pool(self.conv1(images_bchw))
            return self.fc(self.pool(self.maps(images_bchw)).flatten(1))

    torch.manual_seed(3)
    network, images = PooledTwice(), torch.randn(2, 3, 28, 28)
    way = find_way(network.requires_grad_(False), images[:1], 0)
    assert way is not None
    assert (way.place.layer, way.place.call, way.place.side) == (network.pool, 1, "input")
    maps, _ = heat_maps(network, images, [0, 1])
    np.testing.assert_allclose(maps, cam(network, images, [0, 1]), atol=1e-5)


def test_a_network_without_maps_has_no_heat_map():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, CLASSES))
    assert heat_maps(network, torch.randn(2, 3, 8, 8), [0, 1]) is None


def test_a_head_of_zeros_has_no_heat_map():
    network = Small()
    nn.init.zeros_(network.fc.weight)
    assert heat_maps(network, torch.randn(2, 3, 28, 28), [0, 1]) is None


def test_shapes_tell_where_channels_and_places_are():
    def layout(*shape: int):
        found = layout_of(torch.empty(shape))
        return None if found is None else (found.order, found.side, found.extra)

    assert layout(1, 512, 7, 7) == ("bchw", 7, 0)
    assert layout(1, 7, 7, 512) == ("bhwc", 7, 0)
    assert layout(1, 49, 512) == ("blc", 7, 0)
    assert layout(1, 197, 192) == ("blc", 14, 1)
    assert layout(1, 1024, 1) is None  # pooled
    assert layout(1, 512, 1, 1) is None
    assert layout(1, 1, 192) is None
    assert layout(1, 512) is None


# architecture, side in px, method
FAMILIES = {
    "graft_tiny": (32, CAM),
    "squeezenet1_1": (64, CAM),
    "resnet18": (64, CAM),
    "alexnet": (64, CAM),
    "mobilenet_v3_small": (64, CAM),
    "efficientnet_b0": (64, CAM),
    "densenet121": (64, CAM),
    "googlenet": (64, CAM),
    "shufflenet_v2_x0_5": (64, CAM),
    "convnext_tiny": (64, CAM),
    "swin_t": (64, CAM),
    "vit_b_32": (64, ROLL_OUT),
    "timm:resnet10t": (64, CAM),
    "timm:convnext_atto": (64, CAM),
    "timm:test_vit": (160, ROLL_OUT),
    "timm:deit_tiny_distilled_patch16_224": (224, ROLL_OUT),
    "timm:mixer_s32_224": (224, CAM),
    "timm:fastvit_t8": (64, CAM),
    "timm:levit_128s": (224, CAM),
    "timm:xcit_nano_12_p16_224": (224, CAM),
}


def network_of(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    network = build(architecture, CLASSES, FAMILIES[architecture][0])
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)  # some heads and norms start from 0
    return network


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_has_maps_and_is_left_as_it_was(architecture: str):
    side, expected_method = FAMILIES[architecture]
    network = network_of(architecture)
    first, *_, last = network.parameters()
    first.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    images = torch.randn(1, 3, side, side).expand(CLASSES, -1, -1, -1)
    maps, method = heat_maps(network, images, list(range(CLASSES)))
    assert method == expected_method
    assert maps.shape == (CLASSES, side, side)
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert maps.max() == 1  # one class at least has something that speaks for it
    assert maps.std() > 0.01
    assert [module.training for module in network.modules()] == modes
    assert not first.requires_grad
    assert last.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_where_a_class_token_is_read_the_last_patches_it_attends_to_are_explained():
    torch.manual_seed(0)
    # a class token joins for the last block alone, and so not every block attends to all
    network = timm.create_model(
        "convit_tiny", depth=3, local_up_to_layer=2, num_classes=CLASSES
    ).eval()
    images = torch.randn(2, 3, 224, 224)
    way = find_way(network.requires_grad_(False), images[:1], 0)
    assert way is not None
    assert (way.place.layout.order, way.place.layout.side) == ("blc", 14)  # not 197 x 197 weights
    assert way.place.layer is network.blocks[-1].attn.qkv
    maps, method = heat_maps(network, images, [0, 1])
    assert method == CAM
    assert maps.max() == 1


@pytest.mark.parametrize("architecture", ["resnet18", "googlenet", "densenet121", "graft_tiny"])
def test_a_network_fused_for_inference_has_the_same_maps(architecture: str):
    side, _ = FAMILIES[architecture]
    network = network_of(architecture).eval()
    quick = fused(network)
    assert quick is not network
    images = torch.randn(CLASSES, 3, side, side)
    maps, quick_maps = (heat_maps(one, images, range(CLASSES))[0] for one in (network, quick))
    assert maps.max() == 1
    torch.testing.assert_close(quick_maps, maps, atol=1e-3, rtol=0)


def test_it_works_on_frozen_networks_and_within_inference_mode():
    torch.manual_seed(3)
    network, images = Small().requires_grad_(False).eval(), torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        maps, _ = heat_maps(network, images, [0, 1])
    np.testing.assert_allclose(maps, cam(network, images, [0, 1]), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in network.parameters())
