"""What a run folder holds until its run is done: what it is a run of, and how far it has come.

In ``.unfinished`` lie ``begun.json`` (a ``Begun``), the checkpoint that training writes
(``tasks.finetune.keeper``), then, in its place, ``model.json`` and ``report.json``: the values that
the rooms gave out. Each is whole or not there, so that a run can be killed at any time, and go on.
Who works on the run holds ``lock``, which the system lets go of when the process ends.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.artifacts import disk_errors, sha256_file, write_atomic
from tasks.config import Sha256
from tasks.errors import ConfigError, TrainingError
from tasks.finetune.keeper import forget_checkpoint, has_checkpoint
from tasks.finetune.progress import EpochRecord
from tasks.values import EvaluationReport, FineTunedModel, Value
from tasks.work import Work

FOLDER = ".unfinished"
BEGUN, MODEL, REPORT, LOCK = "begun.json", "model.json", "report.json", "lock"

log = logging.getLogger(__name__)


class Begun(Value):
    """What a run was begun with."""

    token: str  # by which its MLflow run is found
    config: Sha256  # of every value but those of ``output``
    code: Sha256
    shown: dict[str, Any]  # the config as all may see it, to say what differs
    work: Work | None = None  # known when the images are


@dataclass
class Place:
    """The folder of a run that is not done yet."""

    folder: Path
    begun: Begun
    resumed: bool

    @property
    def inner(self) -> Path:
        """Return where what only the unfinished run needs is kept."""
        return self.folder / FOLDER

    def agree(self, work: Work) -> None:
        """Note what the run comes from; raises ``ConfigError`` where it began as another."""
        if self.begun.work is None:
            self.begun = self.begun.model_copy(update={"work": work})
            write_begun(self.folder, self.begun)
            return
        for part in ("data", "config", "code"):
            if getattr(self.begun.work, part) != getattr(work, part):
                what = {"data": "images", "config": "config or weights", "code": "code"}[part]
                raise ConfigError(
                    f"{self.folder} was begun with other {what} than there are now.\n"
                    "Put them back as they were, or run without --resume."
                )

    def model(self) -> FineTunedModel | None:
        """Return the trained model, if training was over; raises ``TrainingError``."""
        path = self.inner / MODEL
        if not path.exists():
            return None
        model = FineTunedModel.model_validate_json(path.read_bytes())
        try:
            whole = sha256_file(model.weights) == model.sha256
        except OSError:
            whole = False
        if not whole:
            raise TrainingError(
                f"{model.weights} is not what training wrote.\nRun again without --resume."
            )
        epoch = model.chosen_epoch
        log.info("the training was over: epoch %d is kept", epoch, extra={"room": "finetune"})
        return model

    def keep_model(self, model: FineTunedModel) -> None:
        """Note that training is over, which needs no checkpoint any more."""
        write_atomic(self.inner / MODEL, model.model_dump_json().encode())
        forget_checkpoint(self.inner)

    def report(self) -> EvaluationReport | None:
        """Return the report, if evaluation was over."""
        path = self.inner / REPORT
        return EvaluationReport.model_validate_json(path.read_bytes()) if path.exists() else None

    def keep_report(self, report: EvaluationReport) -> None:
        """Note that evaluation is over."""
        write_atomic(self.inner / REPORT, report.model_dump_json().encode())

    def records(self) -> list[EpochRecord]:
        """Return the epochs that earlier processes trained."""
        path = self.folder / "history.jsonl"
        lines = path.read_text().splitlines() if self.resumed and path.exists() else []
        return [EpochRecord(**json.loads(line)) for line in lines]

    def finish(self) -> None:
        """Note that the run is done: nothing is left to resume."""
        (self.inner / BEGUN).unlink()
        shutil.rmtree(self.inner)


def write_begun(folder: Path, begun: Begun) -> None:
    """Write down what a run was begun with."""
    write_atomic(folder / FOLDER / BEGUN, begun.model_dump_json().encode())


def can_go_on(folder: Path) -> bool:
    """Say whether a run in ``folder`` has come so far that going on is worth anything."""
    inner = folder / FOLDER
    return (inner / BEGUN).is_file() and (has_checkpoint(inner) or (inner / MODEL).is_file())


@contextmanager
def left_tidy(folder: Path) -> Iterator[None]:
    """Remove ``folder`` on any error in the block, but for a stop of a run that can go on."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or not can_go_on(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the unfinished run in ``folder``; raises ``ConfigError`` where another process does."""
    path = folder / FOLDER / LOCK
    with disk_errors(str(path)):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"The run in {folder} still goes on in another process.\n"
                "Wait for it, or stop it first."
            ) from error
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what a killed process was about to write: every atomic write begins with a dot."""
    for path in sorted(folder.rglob(".*")):
        if path.name == FOLDER or not os.path.lexists(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
