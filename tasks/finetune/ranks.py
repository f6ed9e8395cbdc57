"""Which of the training processes this is; a process alone is rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def world() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _together() else 0


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU; other devices are shared."""
    if device.type != "cuda" or not _together():
        return device
    return own_gpu()


def own_gpu() -> torch.device:
    """Return the GPU that torchrun's launch gives this process."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes."""
    if _together():
        dist.all_reduce(tensor)
    return tensor


def of_first(numbers: list[float] | None, device: torch.device) -> list[float]:
    """Return the two numbers that rank 0 has, whatever the others give."""
    if not _together():
        return numbers or []
    shared = torch.tensor(numbers or [0.0, 0.0], device=device, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    found: list[float] = shared.tolist()
    return found


@contextmanager
def first_alone() -> Iterator[None]:
    """Let rank 0 do the block before the others, who then find what it left on disk."""
    if _together() and rank() > 0:
        dist.barrier()
    yield
    if _together() and rank() == 0:
        dist.barrier()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
