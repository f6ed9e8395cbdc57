"""Where checkpoints are written, how often, and what an earlier process left there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from tasks.errors import ConfigError, ResourceError, TrainingError
from tasks.finetune.tree_file import DamagedError, Tree, read_tree, remove_tree, write_tree

NAME = "checkpoint"
SPARED = 20.0  # times what a checkpoint took pass before the next: at most a twentieth of the time
# what changes the result where it changes; what else does is in the config's digest
_DECIDES = ("data", "backbone", "teacher", "device", "precision")

log = logging.getLogger(__name__)


class Keeper:
    """Writes how far a training is into a folder, and gives back what was written there before.

    ``belongs`` says what the training is of. Raises ``TrainingError`` for a checkpoint that is
    damaged, ``ConfigError`` for one of something else.
    """

    def __init__(self, folder: Path, belongs: dict[str, str]) -> None:
        self._folder, self._belongs = folder, belongs
        self._ready = 0.0  # when the next may be written; s of ``time.monotonic``
        self._found = self._read()

    def take(self) -> Tree | None:
        """Return what an earlier process left, the first time that this is asked."""
        found, self._found = self._found, None
        return found

    def offer(self, snapshot: Callable[[], Tree]) -> None:
        """Write a checkpoint, unless the last was too short a time ago for what it took.

        One takes several times the room of the weights. Where the disk has not that much, it is
        said, and the training goes on without.
        """
        start = time.monotonic()
        if start < self._ready:
            return
        try:
            write_tree(self._folder, NAME, {"belongs": self._belongs, "state": snapshot()})
        except ResourceError as error:
            problem = str(error).partition("\n")[0]
            log.warning("a stopped run would go on from an earlier epoch: %s", problem)
        now = time.monotonic()
        self._ready = now + SPARED * (now - start)

    def _read(self) -> Tree | None:
        try:
            found = read_tree(self._folder, NAME)
        except DamagedError as error:
            raise TrainingError(
                f"The checkpoint {error} is damaged.\nRun again without --resume."
            ) from error
        if found is None:
            return None
        for what in _DECIDES:
            if found["belongs"][what] != self._belongs[what]:
                raise ConfigError(
                    f"The checkpoint in {self._folder} is of another {what}: "
                    f"{found['belongs'][what][:40]}, and now {self._belongs[what][:40]}.\n"
                    "Resume where and with what it was begun, or run without --resume."
                )
        self._compare_threads(found["belongs"]["threads"])
        return found["state"]

    def _compare_threads(self, before: str) -> None:
        if before != self._belongs["threads"]:
            log.warning(
                "the run was begun with %s threads and goes on with %s: it ends with slightly "
                "other weights than without the break",
                before,
                self._belongs["threads"],
            )


def has_checkpoint(folder: Path) -> bool:
    """Say whether a training can go on from ``folder``."""
    return (folder / f"{NAME}.json").is_file()


def forget_checkpoint(folder: Path) -> None:
    """Remove the checkpoint from ``folder``, if there is one."""
    remove_tree(folder, NAME)
