"""What a prediction costs: time, size and arithmetic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tasks.evaluate.feature_maps import undisturbed
from tasks.measures import Speed
from tasks.values import InputSpec

_WARM_UP = 3  # predictions that are not counted
_SHORT = 0.5  # s; a batch that took less is timed once more
_SEED = 0


def measure_speed(
    network: nn.Module,
    spec: InputSpec,
    device: torch.device,
    batch_size: int,
    runs: int,
    weights: Path,
    parameters: int,
) -> Speed:
    """Time ``network`` on ``device`` with images of noise, which are there already.

    Latency is that of one image, the 50th and 95th percentile of ``runs`` predictions after three
    for warming up; throughput that of a batch, the quicker of two where the first took less than
    half a second. A GPU is waited for. Size is that of the file ``weights``. ``parameters``
    are those of the model, which ``network``, fused for inference or exported, may not have.
    Memory that runs out raises as torch does.
    """
    network.eval()
    image_bchw = _noise(1, spec, device)
    with torch.inference_mode():
        latencies = _latencies(network, image_bchw, device, runs)
        seconds = _batch_seconds(network, _noise(batch_size, spec, device), device)
    low, high = np.percentile(latencies, (50, 95))
    return Speed(
        device=device.type,
        latency_p50_ms=1000 * float(low),
        latency_p95_ms=1000 * float(high),
        images_per_second=batch_size / seconds,
        batch_size=batch_size,
        size_mib=weights.stat().st_size / 2**20,
        parameters=parameters,
        gflops=count_flops(network, image_bchw) / 1e9,
    )


def count_flops(network: nn.Module, images_bchw: Tensor) -> int:
    """Return the floating-point operations of one forward pass: two a multiply-add.

    Those of convolutions and matrix products, attention's too, as torch's ``FlopCounterMode``
    counts them; norms, activations and pooling are not counted.
    """
    counter = FlopCounterMode(display=False)
    # not inference_mode, nor fused attention: the counter would see neither linear layers nor it;
    # nor no_grad, in which it stops at views of parameters that need gradients
    with undisturbed(network), sdpa_kernel(SDPBackend.MATH), _plain_attention(), counter:
        network(images_bchw)
    return int(counter.get_total_flops())


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let ``nn.MultiheadAttention`` work by matrix products, where it has a kernel of its own."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _noise(n: int, spec: InputSpec, device: torch.device) -> Tensor:
    """Return standard normal (n, 3, crop, crop), channels_last as images are."""
    random = torch.Generator().manual_seed(_SEED)
    images_bchw = torch.randn(n, 3, spec.crop, spec.crop, generator=random)
    return images_bchw.to(device, memory_format=torch.channels_last)


def _latencies(
    network: nn.Module, image_bchw: Tensor, device: torch.device, runs: int
) -> list[float]:
    for _ in range(_WARM_UP):
        network(image_bchw)
    return [_seconds(network, image_bchw, device) for _ in range(runs)]


def _batch_seconds(network: nn.Module, batch_bchw: Tensor, device: torch.device) -> float:
    first = _seconds(network, batch_bchw, device)
    return min(first, _seconds(network, batch_bchw, device)) if first < _SHORT else first


def _seconds(network: nn.Module, images_bchw: Tensor, device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    network(images_bchw)
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
