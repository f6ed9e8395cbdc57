"""Stages of small networks whose parts are known by hand, at the edges of what is opened."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.pretrained.stages import find_stages


def network(**parts: nn.Module | nn.Parameter) -> nn.Module:
    """Return a network of these parts, in this order."""
    whole = nn.Module()
    for name, part in parts.items():
        setattr(whole, name, part)
    return whole


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())


def test_a_chain_is_opened_and_a_norm_joins_what_it_follows():
    chain = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4))
    found = find_stages(network(features=chain, head=nn.Linear(4, 2)), "head")
    assert found == (("features.0", "features.1"), ("features.3",))


def test_two_blocks_are_opened_and_three_are_not():
    two = network(a=block(), b=block(), head=nn.Linear(4, 2))
    assert find_stages(two, "head") == (("a.0", "a.1"), ("b.0", "b.1"))
    three = network(a=block(), b=block(), c=block(), head=nn.Linear(4, 2))
    assert find_stages(three, "head") == (("a",), ("b",), ("c",))


def test_the_block_of_the_head_is_opened_and_counts_for_none():
    found = find_stages(network(a=block(), b=block(), classifier=block()), "classifier.0")
    assert found == (("a.0", "a.1"), ("b.0", "b.1", "classifier.1"))
    three = network(a=block(), b=block(), c=block(), classifier=block())
    assert find_stages(three, "classifier.0") == (("a",), ("b",), ("c", "classifier.1"))


def test_what_has_no_weights_is_in_the_stage_of_the_first_that_has():
    first = network(token=nn.Parameter(torch.zeros(4)), norm=nn.LayerNorm(4), stem=nn.Linear(4, 4),
                    flat=nn.Flatten(), last=nn.Linear(4, 4), out=nn.LayerNorm(4),
                    heads=nn.Linear(4, 2))  # fmt: skip
    assert find_stages(first, "heads") == (("token", "norm", "stem"), ("last", "out"))


def test_a_name_that_begins_as_the_heads_does_is_another_part():
    named = network(fc=nn.Linear(4, 2), fc2=nn.Linear(4, 4), stem=nn.Linear(4, 4))
    assert find_stages(named, "fc") == (("fc2",), ("stem",))
    assert find_stages(named, "fc", "stem") == (("fc2",),)


class Lists(nn.Module):
    """Lists of two layers each, one after the other."""

    def __init__(self, n: int) -> None:
        super().__init__()
        for name in "abcd"[:n]:
            setattr(self, name, nn.ModuleList(nn.Linear(4, 4) for _ in range(2)))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            for layer in child if isinstance(child, nn.ModuleList) else (child,):
                x = layer(x)
        return x


def test_lists_are_opened_only_where_hardly_a_stage_would_be_left():
    images = torch.zeros(1, 4)
    for n in (3, 4):
        names = tuple((name,) for name in "abcd"[:n])
        assert find_stages(Lists(n), "head", images_bchw=images) == names
