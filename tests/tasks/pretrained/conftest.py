"""Networks without memory, built once for every test in this folder."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from torch import nn

from tasks.pretrained.outline import outline


@pytest.fixture(scope="session")
def outlined() -> Callable[[str, int], nn.Module]:
    """Return ``outline`` with a memory: (architecture, classes) to a network on the meta device."""
    return functools.cache(outline)
