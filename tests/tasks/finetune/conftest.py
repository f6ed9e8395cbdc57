"""A network that memory does not suffice for, in place of the small one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.pretrained import architectures
from tests.tasks.finetune.short_memory import Memory, Plain


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let graft_tiny be ``Plain``; return what sets how many images fit, at first all."""
    monkeypatch.setattr(architectures, "GraftTiny", Plain)
    names = ("forward_fits", "backward_fits", "scored_fit")
    for name in (*names, "failures"):
        monkeypatch.setattr(Memory, name, getattr(Memory, name))

    def fits(**images: int) -> None:
        Memory.failures = 0
        for name in names:
            setattr(Memory, name, images.get(name, 10**9))

    return fits
