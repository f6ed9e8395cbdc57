"""Dice that are put back fall as they would have fallen."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.finetune.randomness import read_randomness, set_randomness
from tasks.finetune.tree_file import read_tree, write_tree

CPU = torch.device("cpu")


def throw(generators: list[torch.Generator]) -> list[object]:
    """Draw from every source; the odd normal numbers leave one waiting in numpy and Python."""
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(3).tolist(),
        np.random.randn(1).tolist(),
        torch.rand(3).tolist(),
        [torch.rand(2, generator=each).tolist() for each in generators],
    ]


def test_every_source_goes_on_where_it_was_also_from_a_file(tmp_path: Path):
    orders, views = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    throw([orders, views])  # so that none is at its beginning
    state = read_randomness(CPU, orders=orders, views=views)
    write_tree(tmp_path, "dice", state)
    expected = throw([orders, views])

    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    others = [torch.Generator().manual_seed(9) for _ in range(2)]
    assert throw(others) != expected
    set_randomness(read_tree(tmp_path, "dice"), CPU, orders=others[0], views=others[1])
    assert throw(others) == expected
    assert state["device"] is None


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_dice_of_a_device_are_read_and_put_back(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Without one here, what torch is asked for is looked at."""
    device, asked = torch.device(kind, 0), []
    for other in ("cuda", "mps"):
        module = getattr(torch, other)
        monkeypatch.setattr(module, "get_rng_state", lambda *of, o=other: [o, *of])
        monkeypatch.setattr(
            module, "set_rng_state", lambda *given, o=other: asked.append([o, *given])
        )
    state = read_randomness(device)
    named = [device] if kind == "cuda" else []  # of Apple's there is one
    assert state["device"] == [kind, *named]
    set_randomness(state, device)
    assert asked == [[kind, state["device"], *named]]
