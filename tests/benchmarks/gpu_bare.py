"""The bare model on a GPU, and the GPU's peak: what graft's own loop is held against by ``gpu``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from tasks.finetune.device import on_device

CLASSES = 1000
SECONDS = 12.0  # of an epoch of graft, by the bare model's rate


@dataclass(frozen=True)
class Work:
    """What is trained, and on what."""

    device: torch.device
    size: int  # px
    batch: int  # images
    batches: int | None  # of an epoch; None: as many as SECONDS are enough for
    matmul: int  # side of the matrices that the peak is measured with
    steps: int  # that a bare rate is measured over


def rate(work: Work, step: Callable[[], object], steps: int, warm: int = 10) -> float:
    """Return how many times a second ``step`` is done, the device's queue emptied."""
    for _ in range(warm):
        step()
    _wait(work.device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(work.device)
    return steps / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_flops(work: Work) -> float:
    """Measure bfloat16 multiply-and-add operations a second, each counted as two."""
    n = work.matmul
    a, b = (torch.randn(n, n, device=work.device, dtype=torch.bfloat16) for _ in range(2))
    return max(rate(work, lambda: a @ b, 20) for _ in range(3)) * 2 * n**3


@contextmanager
def in_order(fixed: bool) -> Iterator[None]:
    """Have torch add in a fixed order, as graft does while it trains, or as it is."""
    settings: Any = torch.utils.deterministic
    torch.use_deterministic_algorithms(fixed, warn_only=True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        settings.fill_uninitialized_memory = True


def stepper(work: Work, architecture: str) -> tuple[nn.Module, Callable[[Any], None]]:
    """Return a network, and a step of it, or of what is compiled from it, on one batch."""
    network = on_device(models.get_model(architecture, num_classes=CLASSES), work.device).train()
    images = torch.randn(work.batch, 3, work.size, work.size, device=work.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (work.batch,), device=work.device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.001, momentum=0.9, fused=work.device.type == "cuda"
    )

    def step(model: Callable[[Tensor], Tensor]) -> None:
        with torch.autocast(work.device.type, dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return network, step


def flops_of(work: Work, architecture: str) -> float:
    """Count the FLOPs of an image's step."""
    network, step = stepper(work, architecture)
    with FlopCounterMode(display=False) as counter:
        step(network)
    return counter.get_total_flops() / work.batch


def bare(work: Work, architecture: str, compiled: bool, fixed: bool) -> float:
    """Return images/s of the bare model."""
    network, step = stepper(work, architecture)
    model: Any = network
    if compiled:
        mode = "reduce-overhead" if work.device.type == "cuda" else "default"
        model = torch.compile(network, dynamic=False, mode=mode)
    with in_order(fixed):
        return rate(work, lambda: step(model), work.steps) * work.batch
