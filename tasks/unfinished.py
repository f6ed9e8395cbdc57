"""What a run folder holds until its run is done: what it is a run of, and how far it has come.

In ``.unfinished`` lie ``begun.json`` (a ``Begun``), the checkpoint that training writes
(``tasks.finetune.keeper``), then, in its place, ``model.json`` and ``report.json``: the values that
the rooms gave out. Each is whole or not there, so that a run can be killed at any time, and go on.
Who works on the run holds ``lock``, which the system lets go of when the process ends.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks.artifacts import sha256_file, write_atomic
from tasks.config import Sha256
from tasks.errors import ConfigError, DivergedError, TrainingError
from tasks.finetune.progress import EpochRecord, read_history
from tasks.values import EvaluationReport, FineTunedModel, RegisteredModel, Value
from tasks.work import Work

FOLDER = ".unfinished"
BEGUN, MODEL, REPORT, LOCK = "begun.json", "model.json", "report.json", "lock"
METRICS = "metrics.jsonl"  # those that MLflow has not taken yet, of ``tasks.register.spool``
CHECKPOINT = "checkpoint"  # .json and .safetensors, of ``tasks.finetune.keeper``

log = logging.getLogger(__name__)

Kept = TypeVar("Kept", FineTunedModel, EvaluationReport)


class Begun(Value):
    """What a run was begun with."""

    token: str  # by which its MLflow run is found
    config: Sha256  # of every value but those of ``output``
    code: Sha256
    shown: dict[str, Any]  # the config as all may see it, to say what differs
    since: float = 0.0  # s since 1970, and above those of the runs that were unfinished then
    work: Work | None = None  # known when the images are; so are the next two
    weights: str | None = None  # the version that model.weights named then, as models:/NAME/VERSION
    teacher: str | None = None  # the same of strategy.teacher


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

    @property
    def metrics(self) -> Path:
        """Return the file of the metrics that MLflow has not taken yet."""
        return self.inner / METRICS

    def agree(
        self, work: Work, weights: RegisteredModel | None, teacher: RegisteredModel | None
    ) -> None:
        """Note what the run comes from; raises ``ConfigError`` where it began as another."""
        if self.begun.work is None:
            named = {"weights": weights, "teacher": teacher}
            versions = {key: one.uri for key, one in named.items() if one is not None}
            self.begun = self.begun.model_copy(update={"work": work, **versions})
            write_begun(self.folder, self.begun)
            return
        for part in ("data", "config", "code"):
            if getattr(self.begun.work, part) != getattr(work, part):
                what = {"data": "images", "config": "config or weights", "code": "code"}[part]
                raise ConfigError(
                    f"{self.folder} was begun with other {what} than there are now.\n"
                    "Put them back as they were, or run without --resume."
                )

    @property
    def trained(self) -> bool:
        """Tell whether training was over, whatever became of its weights since."""
        return (self.inner / MODEL).is_file()

    def model(self) -> FineTunedModel | None:
        """Return the trained model, if training was over; raises ``TrainingError``."""
        model = self._read(MODEL, FineTunedModel)
        if model is None:
            return None
        try:
            whole = sha256_file(model.weights) == model.sha256
        except OSError as error:
            raise _unusable(model.weights, error) from error
        if not whole:
            raise _unusable(model.weights, "it is not what training wrote")
        epoch = model.chosen_epoch
        log.info("the training was over: epoch %d is kept", epoch, extra={"room": "finetune"})
        return model

    def keep_model(self, model: FineTunedModel) -> None:
        """Note that training is over, which needs no checkpoint any more."""
        from tasks.finetune.keeper import forget_checkpoint  # torch, which cleaning up needs not

        write_atomic(self.inner / MODEL, model.model_dump_json().encode())
        forget_checkpoint(self.inner)

    def report(self) -> EvaluationReport | None:
        """Return the report, if evaluation was over; raises ``TrainingError``."""
        return self._read(REPORT, EvaluationReport)

    def keep_report(self, report: EvaluationReport) -> None:
        """Note that evaluation is over."""
        write_atomic(self.inner / REPORT, report.model_dump_json().encode())

    def records(self) -> list[EpochRecord]:
        """Return the epochs that are trained by now; raises ``TrainingError``."""
        path = self.folder / "history.jsonl"
        try:
            return read_history(path)
        except (OSError, ValueError) as error:
            raise _unusable(path, error) from error

    def _read(self, name: str, kind: type[Kept]) -> Kept | None:
        """Return the value that a file holds, None where there is none.

        Raises ``TrainingError`` for one that cannot be read, and for one that names files out of
        the folder: they would be sent to MLflow.
        """
        path = self.inner / name
        try:
            value = kind.model_validate_json(path.read_bytes())
            named = [given for _, given in value if isinstance(given, Path)]
            inside = all(one.resolve().is_relative_to(self.folder.resolve()) for one in named)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError) as error:  # the last: links in a circle
            raise _unusable(path, error) from error
        if not inside or value.folder != self.folder:
            raise _unusable(path, f"it is of files that are not in {self.folder}")
        return value

    def finish(self) -> None:
        """Note that the run is done: nothing is left to resume. Who holds it removes the rest."""
        try:
            (self.inner / BEGUN).unlink()
        except OSError as error:  # what the run has made stands all the same
            log.warning("the run is done, but its folder still says that it is not: %s", error)


def _unusable(path: Path, why: object) -> TrainingError:
    words = " ".join(str(why).split())[:200].rstrip(".")
    return TrainingError(f"{path} cannot be gone on from: {words}.\nRun again without --resume.")


def write_begun(folder: Path, begun: Begun) -> None:
    """Write down what a run was begun with."""
    write_atomic(folder / FOLDER / BEGUN, begun.model_dump_json().encode())


def is_unfinished(folder: Path) -> bool:
    """Say whether the run in ``folder`` was begun, and is not done."""
    return (folder / FOLDER / BEGUN).is_file()


def can_go_on(folder: Path) -> bool:
    """Say whether a run in ``folder`` has come so far that going on is worth anything."""
    inner = folder / FOLDER
    far = any((inner / name).is_file() for name in (f"{CHECKPOINT}.json", MODEL))
    return far and is_unfinished(folder)


@contextmanager
def left_tidy(folder: Path) -> Iterator[Path]:
    """Yield ``folder``, and remove it on any error in the block, unless a run can go on in it.

    A training whose loss is no number cannot: the same values lead there again.
    """
    try:
        yield folder
    except BaseException as error:
        if isinstance(error, DivergedError) or not can_go_on(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what a killed process was about to write: every atomic write begins with a dot."""
    for path in sorted(folder.rglob(".*")):
        if path.name == FOLDER or not os.path.lexists(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def remove_rest(folder: Path) -> None:
    """Remove what only the unfinished run in ``folder`` needed."""
    inner = folder / FOLDER
    shutil.rmtree(inner, ignore_errors=True)
    if inner.exists():
        log.warning("%s could not be removed; nothing needs it any more", inner)
