"""GraftTiny: its limits of size, and what it does to a batch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tasks.pretrained.outline import outline
from tasks.pretrained.tiny import GraftTiny


def test_it_ships_in_two_megabytes_and_costs_what_it_says():
    network = outline("graft_tiny", 10)
    assert sum(p.numel() for p in network.parameters()) == 465_242
    assert sum(v.numel() * v.element_size() for v in network.state_dict().values()) < 2_000_000
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 32, 32, device="meta"))
    assert 20e6 < counter.get_total_flops() / 2 < 45e6


@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_any_size_from_16_px_gives_logits(size: int):
    assert GraftTiny(5).eval()(torch.zeros(2, 3, size, size)).shape == (2, 5)


def test_a_block_is_its_shortcut_plus_its_branch():
    block = GraftTiny().stage2[0].eval()
    maps_bchw = torch.randn(2, 16, 8, 8)
    branch_bchw = block.bn2(block.conv2(block.bn1(block.conv1(maps_bchw)).relu()))
    wanted_bchw = (branch_bchw + block.shortcut(maps_bchw)).relu()
    torch.testing.assert_close(block(maps_bchw), wanted_bchw)
