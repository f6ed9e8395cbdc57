"""What the processes of one training share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tasks.finetune import training

NORMED = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(3))


@pytest.mark.parametrize(
    ("device", "layers", "synchronised", "sent"),
    [
        ("cuda", NORMED, True, False),
        ("cuda", (*NORMED, Positions()), True, False),  # whole numbers, which nothing trains
        ("cuda", NORMED, False, True),
        ("cuda", (*NORMED, nn.InstanceNorm2d(4, track_running_stats=True)), True, True),
        ("cpu", NORMED, False, True),
        ("cuda", (nn.Conv2d(3, 4, 3),), False, False),
    ],
)
def test_buffers_are_sent_around_where_they_can_differ(
    device, layers, synchronised, sent, monkeypatch
):
    """What torch is asked for: there is no GPU."""
    asked = []
    monkeypatch.setattr(
        training,
        "DistributedDataParallel",
        lambda model, broadcast_buffers: asked.append(broadcast_buffers),
    )
    model: nn.Module = nn.Sequential(*layers)
    if synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    training._shared(model, torch.device(device))
    assert asked == [sent]
