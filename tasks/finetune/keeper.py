"""Where checkpoints are written, how often, and what an earlier process left there."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tasks.errors import ConfigError, ResourceError, TrainingError
from tasks.finetune.tree_file import (
    DamagedError,
    Tree,
    read_tree,
    remove_tree,
    tree_bytes,
    write_tree,
)
from tasks.unfinished import CHECKPOINT as NAME

SPARED = 20.0  # times what a checkpoint took pass before the next: about a twentieth of the time
GUESSED = 200e6  # bytes/s that a disk is taken to write before a checkpoint has been timed
WITHIN = 60.0  # s since the last one, at the least, until one is due in the middle of an epoch
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
        self._began = self._last = time.monotonic()
        self._ready: float | None = None  # when the next may be written; as ``_began``
        self._said = False  # that there is no room
        self._found = self._read()

    def take(self) -> Tree | None:
        """Return what an earlier process left, the first time that this is asked."""
        found, self._found = self._found, None
        return found

    @property
    def is_due_within(self) -> bool:
        """Tell whether an epoch has gone on for so long that its end is not waited for."""
        now = time.monotonic()
        return now - self._last >= WITHIN and (self._ready is None or now >= self._ready)

    def offer(self, snapshot: Callable[[], Tree]) -> None:
        """Write a checkpoint, unless too little was trained since the last for what it took.

        Before the first, for what it is likely to take.
        """
        start = time.monotonic()
        if self._ready is not None and start < self._ready:
            return
        state = snapshot()
        if self._ready is None:
            self._ready = self._began + SPARED * tree_bytes(state) / GUESSED
        if start < self._ready:
            return
        self.write(state)
        self._last = time.monotonic()
        self._ready = self._last + SPARED * (self._last - start)

    def write(self, state: Tree) -> None:
        """Write a checkpoint.

        One has several times the room of the weights, which must be free twice: a disk that it
        filled would take no trained model. Where that is not so, it is said, and the one before
        stays.
        """
        tree = {"belongs": self._belongs, "state": state}
        size = tree_bytes(tree)
        free = shutil.disk_usage(self._folder).free
        if free < 2 * size:
            self._warn(f"it takes {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")
            return
        try:
            write_tree(self._folder, NAME, tree)
        except ResourceError as error:
            self._warn(str(error).partition("\n")[0])

    def _warn(self, problem: str) -> None:
        if not self._said:
            log.warning(
                "a stopped run would go on from an earlier checkpoint, if from any: %s", problem
            )
        self._said = True

    def _read(self) -> Tree | None:
        try:
            found = read_tree(self._folder, NAME)
        except DamagedError as error:
            raise TrainingError(
                f"The checkpoint {error} is damaged, or cannot be read.\n"
                "Run again without --resume."
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


def forget_checkpoint(folder: Path) -> None:
    """Remove the checkpoint from ``folder``, if there is one."""
    remove_tree(folder, NAME)
