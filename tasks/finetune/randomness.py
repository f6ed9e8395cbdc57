"""Every source of random numbers that a training draws from, as plain values and back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def read_randomness(device: torch.device, **generators: torch.Generator) -> State:
    """Return the states of Python's, numpy's, torch's and the ``generators``' random numbers."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    on_cpu, on_device = read_torchs(device)
    return {
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], *rest),
        "torch": on_cpu,
        "device": on_device,
        **{name: generator.get_state() for name, generator in generators.items()},
    }


def set_randomness(state: State, device: torch.device, **generators: torch.Generator) -> None:
    """Put back what ``read_randomness`` gave, for the same device and generators."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    set_torchs((state["torch"], state["device"]), device)
    for name, generator in generators.items():
        generator.set_state(state[name])


def read_torchs(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the states of torch's random numbers on the CPU and on ``device``; nothing waits."""
    return torch.get_rng_state(), _of_device(device)


def set_torchs(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> None:
    """Put back what ``read_torchs`` gave, for the same device."""
    on_cpu, on_device = state
    torch.set_rng_state(on_cpu)
    if on_device is None:
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(on_device, device)
    else:
        torch.mps.set_rng_state(on_device)


def _of_device(device: torch.device) -> torch.Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None
