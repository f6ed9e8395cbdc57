"""Parts in the order of the forward pass, on networks whose order is known by hand."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from tasks.pretrained.run_order import by_turns
from tasks.pretrained.stages import find_stages

IMAGES = torch.zeros(1, 4)


class Woven(nn.Module):
    """Runs ``late`` last, and ``left`` and ``right`` by turns, shared weights included."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(4, 4)
        self.right = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.token = nn.Parameter(torch.zeros(4))
        self.first = nn.Linear(4, 4)
        self.left = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + self.token
        for left, right in zip(self.left, self.right, strict=True):
            x = right(left(x))
        return self.head(self.norm(self.late(x)))


def test_parts_are_sorted_and_those_by_turns_grouped():
    parts = ["late", "right", "token", "first", "left", "norm"]
    # the bare token goes with the next part that was defined
    assert by_turns(Woven(), parts, IMAGES) == [
        ["token", "first"],
        ["left", "right"],
        ["late"],
        ["norm"],
    ]


def test_parts_once_opened_are_in_order():
    parts = ["late", "right.0", "right.1", "first", "left.0", "left.1"]
    groups = by_turns(Woven(), parts, IMAGES)
    assert groups == [["first"], ["left.0"], ["right.0"], ["left.1"], ["right.1"], ["late"]]


def test_a_part_that_never_runs_stays_with_the_last():
    network = Woven()
    network.unused = nn.Linear(4, 4)
    assert by_turns(network, ["late", "first", "unused"], IMAGES) == [["first"], ["late", "unused"]]


def test_stages_follow_the_forward_pass():
    stages = find_stages(Woven(), "head", images_bchw=IMAGES)
    opened = (("first",), ("left.0",), ("right.0",), ("left.1",), ("right.1",))
    assert stages == (*opened, ("token", "late", "norm"))  # the token is defined before late
    assert find_stages(Woven(), "head")[0] == ("token", "late")  # as defined


class Alternating(nn.Module):
    """Nothing but two lists that run by turns."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2))
            for _ in range(3)
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for a, b, c in zip(self.a, self.b, self.c, strict=True):
            x = c(b(a(x)))
        return self.head(x)


def test_lists_are_opened_where_hardly_a_stage_would_be_left():
    blocks = ("a.0", "b.0", "c.0", "a.1", "b.1", "c.1")
    stages = find_stages(Alternating(), "head", images_bchw=IMAGES)
    assert stages == tuple((f"{block}.0", f"{block}.1") for block in blocks)
    chain = nn.Sequential(OrderedDict(body=Alternating()))  # and in what is opened itself
    stages = find_stages(chain, "body.head", images_bchw=IMAGES)
    assert stages == tuple((f"body.{block}.0", f"body.{block}.1") for block in blocks)
