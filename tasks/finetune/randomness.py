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
    return {
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
        "device": _of_device(device),
        **{name: generator.get_state() for name, generator in generators.items()},
    }


def set_randomness(state: State, device: torch.device, **generators: torch.Generator) -> None:
    """Put back what ``read_randomness`` gave, for the same device and generators."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["device"])
    for name, generator in generators.items():
        generator.set_state(state[name])


def _of_device(device: torch.device) -> torch.Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None
