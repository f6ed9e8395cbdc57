"""Which process this is, and that the first does a thing before the others."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tasks.finetune.ranks import first_alone, local_device, of_first, rank, summed, world


def test_a_process_alone_is_the_first_of_one():
    gpu, numbers = torch.device("cuda"), torch.tensor([1.0, 2.0])
    assert (rank(), world(), local_device(gpu)) == (0, 1, gpu)
    assert summed(numbers) is numbers
    assert of_first([0.5, 0.25], torch.device("cpu")) == [0.5, 0.25]


@pytest.mark.parametrize(("own", "order"), [(0, ["block", "barrier"]), (1, ["barrier", "block"])])
def test_the_first_does_the_block_before_the_others(own, order, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: own)
    monkeypatch.setattr(dist, "barrier", lambda: done.append("barrier"))
    with first_alone():
        done.append("block")
    assert done == order
    monkeypatch.setenv("LOCAL_RANK", str(own))
    assert local_device(torch.device("cuda")) == torch.device("cuda", own)
    assert local_device(torch.device("cpu")) == torch.device("cpu")  # which they share
