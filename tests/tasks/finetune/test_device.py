"""Which device, which precision, and what running out of memory says."""

from __future__ import annotations

import pytest
import torch

from tasks.errors import ResourceError
from tasks.finetune.device import (
    describe,
    free_memory,
    is_out_of_memory,
    memory_errors,
    pick_device,
    pick_precision,
    scoring_batch,
    use_threads,
)

CPU = torch.device("cpu")


def test_auto_takes_the_best_there_is():
    gpu = torch.cuda.is_available()
    assert pick_device("auto").type == ("cuda" if gpu else pick_device("auto").type)
    if not gpu and not torch.backends.mps.is_available():
        assert pick_device("auto") == CPU
    assert pick_device("cpu") == CPU


def test_float32_is_float32_on_a_gpu_too(monkeypatch):
    """What torch is told of its convolutions and products: there is no GPU."""
    backends = torch.backends
    before = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        pick_device("cpu")
        assert backends.cudnn.conv.fp32_precision == "tf32"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        for name in ("auto", "cuda", "cuda"):
            assert pick_device(name) == torch.device("cuda")
            for precision in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul):
                assert precision.fp32_precision in ("ieee", "none")  # none: torch's, IEEE's
        with backends.cudnn.flags(enabled=True):  # which ask by older names, as torch.compile does
            assert not backends.cuda.matmul.allow_tf32
        assert not backends.cudnn.allow_tf32
    finally:
        backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_precision_on_a_cpu(name, kind):
    assert pick_precision(name, CPU) == kind


@pytest.mark.parametrize(
    ("asked", "device", "crop", "images"),
    [
        ("auto", "cpu", 224, 16),
        ("auto", "cpu", 96, 32),
        ("auto", "cpu", 32, 128),
        ("auto", "cpu", 8, 128),
        ("auto", "cpu", 10_000, 1),
        ("auto", "cuda", 224, 256),
        (300, "cpu", 224, 300),
    ],
)
def test_as_many_images_are_scored_at_once_as_were_asked_for(asked, device, crop, images):
    assert scoring_batch(asked, torch.device(device), crop) == images


def test_threads_are_set_and_said():
    before = torch.get_num_threads()
    try:
        use_threads(1)
        assert "1 threads" in describe(CPU, torch.float32)
        use_threads(None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_torchs_own_failure_to_allocate_is_explained():
    with (
        pytest.raises(ResourceError, match=r"training\.batch_size=32"),
        memory_errors(64, "training.batch_size"),
    ):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError(
            "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        MemoryError(),
    ],
)
def test_a_gpus_failures_to_allocate_are_memorys(error):
    """In the words of torch and of NVIDIA's libraries: there is no GPU."""
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
def test_a_gpus_other_failures_are_not(words):
    assert not is_out_of_memory(torch.AcceleratorError(words))


def test_other_faults_pass_through():
    with (
        pytest.raises(RuntimeError, match="shape"),
        memory_errors(64, "training.batch_size"),
    ):
        torch.zeros(2).view(3)


def test_auto_is_bfloat16_where_the_processor_multiplies_in_it(monkeypatch):
    for flags, kind in (
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, torch.float32),
        ({}, torch.float32),  # not an x86
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert pick_precision("auto", CPU) == kind


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_is_named_and_asked_for_bfloat16_of_its_own(has, monkeypatch):
    """What torch is asked for: there is no GPU."""

    def supported(including_emulation: bool = True) -> bool:
        return has or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"{device} of somebody")
    gpu = torch.device("cuda", 1)
    kind = pick_precision("auto", gpu)
    assert kind == (torch.bfloat16 if has else torch.float32)
    name = "bfloat16" if has else "float32"
    assert describe(gpu, kind) == f"cuda (cuda:1 of somebody), {name}, channels_last"


@pytest.mark.parametrize(("kind", "freed"), [("cuda", ["cuda"]), ("mps", ["mps"]), ("cpu", [])])
def test_memory_is_given_back_where_torch_keeps_it(kind, freed, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: seen.append("mps"))
    free_memory(torch.device(kind))
    assert seen == freed
