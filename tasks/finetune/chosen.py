"""The weights that will be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from tasks.finetune.progress import EpochRecord

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Outcome:
    """The weights to save, and what validation says of them."""

    state: State
    epoch: int  # of the training's best; from 1
    val_accuracy: float
    val_loss: float
    trainable: int  # scalars that moved
    parameters: int  # scalars in all


class Chosen:
    """The weights of the best epoch so far, or of the last one, copied off the device."""

    def __init__(self, how: Literal["best", "last"]) -> None:
        self._how = how
        self._best: tuple[float, float] | None = None
        self.state: State = {}
        self.record: EpochRecord | None = None
        self.since = 0  # epochs since the last one that was better

    def offer(self, take: Callable[[], State], record: EpochRecord) -> None:
        """Keep this epoch if it is better: higher validation accuracy, then lower loss."""
        score = (record.val_accuracy, -record.val_loss)
        better = self._best is None or score > self._best
        self.since = 0 if better else self.since + 1
        if better:
            self._best = score
        if better or self._how == "last":
            self.record = record
            self.state = take()

    def as_tree(self) -> dict[str, Any]:
        """Return all of it, for a checkpoint."""
        record = None if self.record is None else asdict(self.record)
        return {"best": self._best, "state": self.state, "record": record, "since": self.since}

    def restore(self, tree: dict[str, Any]) -> None:
        """Be as the one that ``as_tree`` was asked of."""
        self._best, self.state, self.since = tree["best"], tree["state"], tree["since"]
        self.record = None if tree["record"] is None else EpochRecord(**tree["record"])


def copied(state: State) -> State:
    """Return a copy on the CPU that further training does not change."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
