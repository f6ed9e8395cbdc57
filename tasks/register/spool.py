"""Metrics on disk, until the tracking server has them: a line each, in the folder of their run.

The file is there only while something waits. What is in it survives the end of its process, be it
by SIGKILL, and carries the time of measurement: by name, step and time a metric is told from any
other, so that whoever delivers it can see whether the server has it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from mlflow.entities import Metric

from tasks.artifacts import disk_errors, sync_folder
from tasks.errors import ResourceError

log = logging.getLogger(__name__)


class Spool:
    """The metrics in one file, oldest first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken = False

    def append(self, metrics: Iterable[Metric]) -> None:
        """Add metrics, and have them on disk; where that cannot be, it is said once.

        A full disk must not end a training: the figures are in memory and in history.jsonl too.
        """
        lines = [json.dumps([m.key, m.value, m.timestamp, m.step]) for m in metrics]
        try:
            with disk_errors(str(self.path)):
                self._write("\n" + "\n".join(lines) + "\n")  # apart from what a kill cut off
        except (ResourceError, OSError) as error:
            if not self._broken:
                log.warning("metrics wait in memory alone: %s", str(error).partition("\n")[0])
            self._broken = True

    def _write(self, text: str) -> None:
        new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.path.parent)

    def read(self) -> list[Metric]:
        """Return what waits; a line that its process was killed in was not sent, and is dropped."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("%s is not read: %s", self.path, error)
            return []
        found = [_metric(line) for line in lines if line]
        return [metric for metric in found if metric is not None]

    def clear(self) -> None:
        """Remove the file: the server has it all. Not synced: what comes back is not sent twice."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be removed: %s", self.path, error)


def _metric(line: str) -> Metric | None:
    try:
        key, value, timestamp, step = json.loads(line)
        return Metric(str(key), float(value), int(timestamp), int(step))
    except (ValueError, TypeError):
        return None
