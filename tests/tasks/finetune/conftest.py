"""A network that memory does not suffice for, in place of the small one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from tasks.config import RunConfig
from tasks.finetune.course import Course, open_course
from tasks.finetune.meeting import LOOPBACK, Place, open_store
from tasks.finetune.progress import Nobody
from tasks.pretrained import architectures
from tasks.recipe import StrategyConfig
from tasks.values import Backbone, PreparedDataset
from tests.tasks.finetune.short_memory import Memory, Plain


def store_here(
    nodes: int, silence: float, patience: float = 9, **more: object
) -> tuple[Place, dist.Store]:
    """Return where that many nodes meet, and the store there, which is in this process."""
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    place = Place(host=LOOPBACK, port=port, nodes=nodes, patience=patience, silence=silence, **more)
    return place, open_store(place, listener)


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


@pytest.fixture
def make_course(
    prepared: PreparedDataset,
    backbone: Backbone,
    make_config: Callable[..., RunConfig],
    tmp_path: Path,
) -> Callable[..., Course]:
    """Return a maker of jobs before their training: a strategy, and sections of a config."""

    def make(strategy: dict[str, object], **sections: object) -> Course:
        # the fixture's random weights stand for pretrained ones, which the config does not know
        kind = StrategyConfig.model_validate(strategy)
        config = make_config(**sections).model_copy(update={"strategy": kind})
        return open_course(config, prepared, backbone, tmp_path, Nobody(), None)

    return make
