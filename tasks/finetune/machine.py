"""The kind of machine that computes: on another kind the same sums may round otherwise."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

from tasks.finetune.ranks import world
from tasks.measures import Machine

_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # with which products are summed otherwise than without


def this_machine(device: torch.device) -> Machine:
    """Return what decides, beside config, data and code, how ``device`` rounds."""
    on_gpu = device.type == "cuda"
    return Machine(
        device=_gpu(device) if on_gpu else _processor(),
        threads=None if on_gpu else torch.get_num_threads(),
        processes=world(),
        libraries=_libraries(on_gpu),
    )


def _gpu(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"


@cache
def _processor() -> str:
    """Return the processor's name, and the instructions that torch takes there."""
    level = torch.backends.cpu.get_cpu_capability()
    known = torch.cpu.get_capabilities()
    return ", ".join((_model_name(), level, *(name for name in _BFLOAT16 if known.get(name))))


def _model_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _libraries(on_gpu: bool) -> str:
    if not on_gpu:
        return f"torch {torch.__version__}"
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # so in torch
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
