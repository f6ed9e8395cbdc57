"""Which processor trains, in which precision, with how many threads."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from tasks.errors import ResourceError
from tasks.memory import pages_kept
from tasks.values import PackedSplit, StreamedSplit

_SCORED = 256
# 16 images of 224 pixels, 32 of 96, 128 of 32: measured on SqueezeNet, ResNet-18 and MobileNetV3.
# More cost memory and no less time, fewer leave the processor waiting
_SIDES_ON_CPU = 3584  # images x pixels of a side
_MOST_ON_CPU = 128
# what a RuntimeError says that has no type of its own: of torch for a CPU; of Apple's GPU, CUDA's
# driver (AcceleratorError) and NCCL; of cuBLAS, cuSOLVER and cuFFT; of cuDNN
_NO_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cuda``, ``mps`` or ``cpu``.

    ``auto`` takes cuda if there, else mps, else cpu. A device that is asked for by name and is not
    there raises ``ResourceError``: training on another one would be a silent surprise. From here on
    float32 is float32 on it (``_without_tf32``).
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in there.items() if is_there)
    if not there[name]:
        raise ResourceError(
            f"training.device is {name}, and this machine has none that torch can use.\n"
            "Set training.device=auto, or install a torch build for it."
        )
    if name == "cuda":
        _without_tf32()
    return torch.device(name)


def _without_tf32() -> None:
    """Have CUDA multiply float32 as float32, not with TF32's ten bits, torch's default in cuDNN.

    By torch's older names for it: once the newer ones are set, torch refuses to answer to the older
    ones, by which torch.compile and ``torch.backends.cudnn.flags`` ask.
    """
    cudnn: Any = torch.backends.cudnn  # has parts that torch's types do not know
    if cudnn.conv.fp32_precision == "tf32":
        cudnn.allow_tf32 = False
    if torch.backends.cuda.matmul.fp32_precision == "tf32":  # by an environment variable
        torch.set_float32_matmul_precision("highest")


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the autocast type: ``auto`` is bfloat16 where the processor multiplies in it.

    That is a GPU from NVIDIA's Ampere on, or a CPU with AVX-512 BF16 or AMX; a processor that only
    emulates it, or none of these, trains in float32.
    """
    if name != "auto":
        return _PRECISIONS[name]
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = device.type == "cpu" and _cpu_has_bfloat16()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Return one line for the log, for example ``cpu (2 threads), float32``."""
    kind = str(precision).removeprefix("torch.")
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)}), {kind}, channels_last"
    return f"{device.type} ({torch.get_num_threads()} threads), {kind}, channels_last"


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network; oneDNN and cuDNN both convolve faster with channels last in memory."""
    moved: nn.Module = network.to(device).to(memory_format=torch.channels_last)
    return moved


def use_threads(threads: int | None) -> None:
    """Let torch use ``threads`` CPU threads; ``None`` leaves torch's choice, OMP_NUM_THREADS."""
    if threads is not None:
        torch.set_num_threads(threads)


def scoring_batch(size: int | Literal["auto"], device: torch.device, crop: int) -> int:
    """Return how many images of ``crop`` pixels a side are scored at once, where ``auto`` asks."""
    if size != "auto":
        return size
    if device.type != "cpu":
        return _SCORED
    return min(_MOST_ON_CPU, 1 << max(0, round(math.log2(_SIDES_ON_CPU / crop))))


def pages_kept_on(device: torch.device) -> AbstractContextManager[None]:
    """Keep a step's memory for the next one, as ``pages_kept``, where the C library has it."""
    return pages_kept() if device.type == "cpu" else nullcontext()


def pages_kept_over(
    train: PackedSplit | StreamedSplit, device: torch.device
) -> AbstractContextManager[None]:
    """Do the same while a network goes over the training images, unless they are streamed.

    What a stream leaves between its images goes back to the system, or it would pile up.
    """
    return nullcontext() if isinstance(train, StreamedSplit) else pages_kept_on(device)


@contextmanager
def memory_errors(batch_size: int, key: str) -> Iterator[None]:
    """Turn an allocator's failure into a ``ResourceError`` that names the setting to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"Out of memory with {key}={batch_size}.\n"
            f"Lower it, for example {key}={max(1, batch_size // 2)}."
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an allocator failed: Python's, torch's for any device, or a GPU library's."""
    typed = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return typed or any(words in str(error) for words in _NO_MEMORY)


def free_memory(device: torch.device) -> None:
    """Give memory back that nothing holds any more, so that it can be had in other pieces."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
