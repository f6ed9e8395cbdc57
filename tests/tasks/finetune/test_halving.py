"""One batch for which memory does not suffice: what it leaves, and what it comes to in parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from tasks.finetune import halving as halving_module
from tasks.finetune.halving import Part
from tests.tasks.finetune.short_memory import Bench, Memory, Normed, Plain, batch_of


def state_of(network: nn.Module) -> list[Tensor]:
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return [torch.get_rng_state(), *(b.clone() for b in network.buffers()), *gradients]


def test_a_failure_leaves_nothing_behind(memory):
    """A second part's backward pass fails, when the first has left statistics and gradients."""
    bench, begun = Bench(Normed), list[list[Tensor]]()
    first, parameters = batch_of(9).inputs[0], list(bench.network.parameters())
    for p in parameters:  # of the step's batch before
        p.grad = torch.full_like(p, 0.5)

    def look(part: Part) -> None:
        if torch.equal(part.inputs[0], first):
            begun.append(state_of(bench.network))
        if bench.sizes == [9, 5, 4]:
            memory(backward_fits=3)

    memory(backward_fits=8)
    _, right = bench.learn(9, look)
    assert bench.sizes == [9, 5, 4, 3, 3, 3]
    assert (bench.at_once.images, int(right)) == (3, 9)
    assert len(begun) == 3
    for again in begun[1:]:
        assert all(map(torch.equal, again, begun[0]))
    assert len(again) == 1 + 3  # random numbers and batch norm's, no gradient
    found = [p.grad for p in parameters]
    torch.set_rng_state(begun[0][0])  # by hand, with the same dropout
    bench.network.zero_grad()
    for part in batch_of(9).split(3):
        (F.cross_entropy(bench.network(part.inputs), part.targets) / 3).backward()
    for p, gradient in zip(parameters, found, strict=True):
        torch.testing.assert_close(gradient, 0.5 + p.grad, rtol=1e-5, atol=1e-7)


def test_running_statistics_move_as_far_as_by_one_batch(memory):
    bench = Bench(Normed, fit=4)
    norm = bench.network.stem[1]
    before = norm.running_mean.clone(), norm.running_var.clone()
    with torch.no_grad():
        maps = bench.network.stem[0](batch_of(11).inputs)
    bench.learn(11)
    assert bench.sizes == [4, 4, 3]
    parts = maps.tensor_split(3)
    variance = sum(len(part) * part.transpose(0, 1).flatten(1).var(1) for part in parts) / 11
    mean = maps.mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, 0.9 * before[0] + 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 * before[1] + 0.1 * variance)
    assert norm.momentum == 0.1


@pytest.mark.parametrize(("n", "sizes"), [(7, [3, 2, 2]), (3, [3]), (1, [1])])
def test_batch_norm_has_two_images_where_there_are_two(n, sizes, memory):
    bench = Bench(Normed, fit=2)
    bench.learn(n)
    assert bench.sizes == sizes


def test_several_processes_end_as_they_did(memory, monkeypatch):
    """They would wait for each other's gradients."""
    monkeypatch.setattr(halving_module, "world", lambda: 2)
    memory(forward_fits=4)
    with pytest.raises(torch.OutOfMemoryError):
        Bench(Plain).learn(8)
    assert Memory.failures == 1


def test_other_faults_end_it(memory):
    bench = Bench(Plain)

    def fault(part: Part) -> None:
        raise RuntimeError("shape")

    with pytest.raises(RuntimeError, match="shape"):
        bench.learn(8, fault)
    assert bench.sizes == [8]
