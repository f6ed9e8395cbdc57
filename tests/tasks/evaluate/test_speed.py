"""Counts against closed forms and torchvision's published figures, times against a known wait."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from tasks.evaluate.speed import count_flops, measure_speed
from tasks.pretrained.outline import outline
from tasks.values import InputSpec

CPU = torch.device("cpu")
SPEC = InputSpec(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")


def test_convolutions_and_linear_layers_count_two_a_multiply_add():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Flatten(), nn.Linear(8 * 16, 5),
    ).eval()  # fmt: skip
    multiply_adds = 16 * 8 * 27 + 16 * 8 * 9 + 8 * 16 * 5
    assert count_flops(network, torch.randn(1, 3, 8, 8)) == 2 * multiply_adds
    assert count_flops(network, torch.randn(7, 3, 8, 8)) == 7 * 2 * multiply_adds


@pytest.mark.parametrize(
    "name",
    ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "densenet121", "convnext_tiny", "vit_b_32"],
)
def test_networks_count_what_torchvision_publishes(name: str):
    published = models.get_model_weights(name).DEFAULT.meta["_ops"]  # 1e9 multiply-adds
    images = torch.empty(1, 3, 224, 224, device="meta")
    assert count_flops(outline(name, 1000), images) / 2e9 == pytest.approx(published, abs=6e-4)


def attention_multiply_adds(tokens: int, width: int, hidden: int) -> int:
    projections = tokens * width * 3 * width + tokens * width * width
    return projections + 2 * tokens**2 * width + 2 * tokens * width * hidden


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_attention_counts_whatever_kernel_would_run_it(library: str):
    if library == "torchvision":
        network = models.VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=3)
    else:
        network = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=4, depth=2, embed_dim=8, num_heads=2,
            mlp_ratio=2, num_classes=3,
        )  # fmt: skip
    enabled = torch.backends.mha.get_fastpath_enabled()
    found = count_flops(network.eval(), torch.randn(1, 3, 16, 16))
    expected = 16 * 8 * 48 + 2 * attention_multiply_adds(17, 8, 16) + 8 * 3
    assert found == 2 * expected
    assert torch.backends.mha.get_fastpath_enabled() == enabled


def test_a_class_token_is_no_hindrance():
    network = timm.create_model("cait_xxs24_224", img_size=32, depth=2, num_classes=3).eval()
    flags = [parameter.requires_grad for parameter in network.parameters()]
    found = count_flops(network, torch.randn(1, 3, 32, 32))
    per_block = attention_multiply_adds(4, 192, 768) + 2 * 4 * 4 * 4**2  # heads are mixed twice
    # of the class attention's two blocks: q of one token, k and v of five, and an MLP of one
    per_token = 192**2 + 2 * 5 * 192**2 + 2 * 5 * 192 + 192**2 + 2 * 192 * 768
    assert found == 2 * (4 * 192 * 768 + 2 * per_block + 2 * per_token + 192 * 3)
    assert flags == [parameter.requires_grad for parameter in network.parameters()]


class Waits(nn.Module):
    """Takes 4 ms, every tenth image 40 ms, and a batch what it is told to."""

    def __init__(self, batch: float) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 64, 2)
        self.batch, self.sizes = batch, []

    def forward(self, images_bchw: Tensor) -> Tensor:
        self.sizes.append(len(images_bchw))
        if len(images_bchw) > 1:
            time.sleep(self.batch)
        else:
            time.sleep(0.04 if len(self.sizes) % 10 == 0 else 0.004)
        return self.fc(images_bchw.flatten(1))


def test_times_are_those_of_one_image_and_of_a_batch(tmp_path: Path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"x" * (3 * 2**19))
    network = Waits(batch=0.05)
    speed = measure_speed(network, SPEC, CPU, 5, 20, weights, 12345)
    assert network.sizes == [1] * 23 + [5, 5] + [1]
    assert 4 <= speed.latency_p50_ms < 30
    assert speed.latency_p95_ms >= 40
    assert 20 < speed.images_per_second <= 100
    assert (speed.device, speed.batch_size, speed.size_mib) == ("cpu", 5, 1.5)
    assert speed.parameters == 12345  # the model's, whatever is left of them in the network
    assert speed.gflops == 2 * 3 * 64 * 2 / 1e9


def test_a_long_batch_is_timed_once(tmp_path: Path):
    (tmp_path / "w").write_bytes(b"x")
    network = Waits(batch=0.51)
    speed = measure_speed(network, SPEC, CPU, 4, 1, tmp_path / "w", 1)
    assert network.sizes.count(4) == 1
    assert speed.images_per_second < 8


def test_what_runs_beside_the_cpu_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before and after each timed prediction: 7 single ones and a batch twice."""
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    (tmp_path / "w").write_bytes(b"x")
    meta = torch.device("meta")  # as a GPU another device than the CPU, and on every machine
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2, device=meta))
    speed = measure_speed(network, SPEC, meta, 4, 7, tmp_path / "w", 1)
    assert waited == [meta] * 2 * (7 + 2)
    assert (speed.device, speed.gflops) == ("meta", 2 * 3 * 64 * 2 / 1e9)
    waited.clear()
    measure_speed(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), SPEC, CPU, 1, 1, tmp_path / "w", 1
    )
    assert waited == []
