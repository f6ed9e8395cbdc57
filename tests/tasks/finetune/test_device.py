"""Which device, which precision, and what running out of memory says."""

from __future__ import annotations

import pytest
import torch

from tasks.errors import ResourceError
from tasks.finetune.device import (
    describe,
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
