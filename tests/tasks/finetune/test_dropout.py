"""Dropout by bytes: torch's own is the oracle for all but the draws, statistics for those."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from scipy import stats
from torch import nn

from tasks.finetune.dropout import ByteDropout, with_byte_dropout
from tasks.finetune.tracing import trace

PATTERNS = 256  # of eight values that are kept or not


def drawn(p: float, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32):
    torch.manual_seed(seed)
    return ByteDropout(p)(torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize("p", [0.5, 0.25, 0.125, 3 / 256])
def test_a_value_is_dropped_with_the_probability_and_scaled_by_the_rest(p: float):
    out = drawn(p, 1_000, 1_003)
    assert out.unique().tolist() == [0.0, pytest.approx(1 / (1 - p))]
    dropped = int((out == 0).sum())
    assert stats.binomtest(dropped, out.numel(), p).pvalue > 1e-4
    places = (out.flatten()[: out.numel() // 8 * 8].view(-1, 8) == 0).sum(dim=0)
    for place in places.tolist():  # of a byte in its number
        assert stats.binomtest(place, out.numel() // 8, p).pvalue > 1e-4


def test_neighbours_are_independent():
    kept = (drawn(0.5, 8 * 200_000) != 0).view(-1, 8).long()
    pattern = (kept * 2 ** torch.arange(8)).sum(dim=1)
    found = torch.bincount(pattern, minlength=PATTERNS)
    assert stats.chisquare(found.numpy()).pvalue > 1e-4
    later = torch.bincount(pattern[1:] ^ pattern[:-1], minlength=PATTERNS)  # and across numbers
    assert stats.chisquare(later.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_forward_and_gradient_are_those_of_the_mask(dtype, layout):
    images = torch.randn(3, 5, 4, 7).to(dtype).to(memory_format=layout).requires_grad_()
    torch.manual_seed(1)
    out = ByteDropout(0.25)(images)
    out.sum().backward()
    mask = images.grad
    scale = torch.tensor(1 / 0.75, dtype=dtype)
    assert mask.unique().tolist() == [0.0, scale.item()]
    torch.testing.assert_close(out, images.detach() * mask)
    assert out.is_contiguous(memory_format=layout)
    torch.manual_seed(1)
    assert ByteDropout(0.25)(images).equal(out)
    assert not ByteDropout(0.25)(images).equal(out)


def test_in_evaluation_and_of_nothing_it_is_nothing():
    layer = ByteDropout(0.5)
    assert layer(torch.ones(0, 4)).shape == (0, 4)
    values = torch.randn(4)
    assert layer.eval()(values) is values


def test_only_layers_that_stay_the_same_are_replaced():
    network = nn.Sequential(
        nn.Dropout(0.5), nn.Dropout(0.2), nn.Dropout(0.5, inplace=True), nn.Dropout(0.0),
        nn.Dropout(1.0), nn.Dropout2d(0.5), nn.Sequential(nn.Dropout(0.25)),
    )  # fmt: skip
    network[6][0].eval()
    before = copy.deepcopy(network)
    with_byte_dropout(network)
    quick = [name for name, module in network.named_modules() if isinstance(module, ByteDropout)]
    assert quick == ["0", "6.0"]
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert [getattr(m, "p", None) for m in network.modules()] == [
        getattr(m, "p", None) for m in before.modules()
    ]


def test_a_network_with_it_has_the_same_weights_and_traces_as_before():
    network = torchvision.models.squeezenet1_0(num_classes=3)
    names, plain = list(network.state_dict()), trace(network)
    with_byte_dropout(network)
    assert list(network.state_dict()) == names
    assert [str(node) for node in trace(network).nodes] == [str(node) for node in plain.nodes]
    assert isinstance(copy.deepcopy(network).classifier[0], ByteDropout)
