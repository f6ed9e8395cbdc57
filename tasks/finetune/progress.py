"""What training tells whoever watches it, while it goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StepProgress:
    """Where training is, after one optimiser step."""

    epoch: int  # from 1
    epochs: int
    step: int  # from 1, within the epoch
    steps: int
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.jsonl; losses are nats an image, accuracies 0 to 1.

    The training loss is what is minimised, label smoothing included; the validation loss is plain.
    """

    epoch: int  # from 1
    epochs: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float  # training and validation
    images_per_second: float  # training alone


def read_history(path: Path) -> list[EpochRecord]:
    """Return the epochs of a history.jsonl; raises ``OSError``, ``ValueError`` where it is damaged.

    Bytes that are no UTF-8, a line that is no JSON, and one with other fields are damage.
    """
    try:
        return [EpochRecord(**json.loads(line)) for line in path.read_text().splitlines()]
    except TypeError as error:
        raise ValueError(f"a line has other fields: {error}") from error


class Watcher(Protocol):
    """Told of every step and every epoch; must be quick, since training waits for it."""

    def step(self, progress: StepProgress) -> None:
        """Be told that an optimiser step is done."""

    def epoch(self, record: EpochRecord) -> None:
        """Be told that an epoch is trained and validated."""


class Nobody:
    """The watcher where nobody watches."""

    def step(self, progress: StepProgress) -> None:
        """Do nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Do nothing."""
